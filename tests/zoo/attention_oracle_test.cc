// Against implementations that are not ours: Hugging Face transformers 5.23 (Llama in float32, GPT-2 in
// float64, eager attention, log-sum-exps of its own q and k) and the float64 NumPy twin of the paper's block
// in oracle_attention.py.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "models/tensor/from_archive.h"
#include "models/zoo/registry.h"
#include "tests/testing/paths.h"
#include "tests/testing/recording_tap.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::MaxDifference;
using testing::MaxMagnitude;
using testing::NormalTensor;
using testing::RecordingTap;
using testing::RelativeDifference;

class AttentionOracleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::string(EIGSVC_ORACLE_PYTHON).empty())
      GTEST_SKIP() << "no oracle: configure with EIGSVC_ORACLE_PYTHON";
    directory_ = ::testing::TempDir() + absl::StrCat("eigsvc_attention_oracle_", getpid());
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void RunOracle(const std::string& arguments) {
    const std::string command =
        absl::StrCat("'", EIGSVC_ORACLE_PYTHON, "' '", testing::SourcePath("tests/zoo/oracle_attention.py"),
                     "' ", arguments, " '", directory_, "' > '", directory_, "/log.txt' 2>&1");
    std::ifstream log(directory_ + "/log.txt");
    ASSERT_EQ(std::system(command.c_str()), 0) << command << "\n"
                                               << std::string(std::istreambuf_iterator<char>(log), {});
  }

  // Compares with FOLDER/expected.safetensors. `log_lambda`: what log λ may be off by where |log-sum-exp| is
  // small.
  static void Compare(const std::string& folder, c10::ScalarType dtype, double logits_tolerance,
                      double log_lambda) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(folder));
    LoadOptions options;
    options.dtype = dtype;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, LoadModel(archive, {}, options));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive expected, Archive::Open(folder + "/expected.safetensors"));
    const auto tensor = [&](const std::string& key) {
      return *TensorFromArchive(expected.tensors().at(key));
    };
    RecordingTap tap;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits,
                                model->Forward(model->weights(), tensor("tokens"), {&tap}));
    EXPECT_LE(RelativeDifference(logits, tensor("logits")), logits_tolerance);
    for (int layer = 0; layer < model->description().layers; ++layer) {
      const at::Tensor lse = tensor(absl::StrCat("lse.", layer));
      const int64_t steps = lse.size(2) - 1;
      const at::Tensor exact = (lse.narrow(2, 0, steps) - lse.narrow(2, 1, steps)).transpose(1, 2);
      ASSERT_EQ(tap.LogMagnitude(layer).sizes(), exact.sizes());
      EXPECT_GT(MaxMagnitude(exact), 0.1);
      EXPECT_LE(MaxDifference(tap.LogMagnitude(layer), exact), log_lambda * std::max(1.0, MaxMagnitude(lse)))
          << "layer " << layer;
      EXPECT_EQ(tap.seen[layer][0].transition.first_step, 1);
    }
  }

  at::NoGradGuard no_grad_;
  std::string directory_;
};

TEST_F(AttentionOracleTest, LlamaAndGpt2EqualTransformers) {
  ASSERT_NO_FATAL_FAILURE(RunOracle("transformers --seed 1"));
  int llamas = 0, gpt2s = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    if (!entry.is_directory()) continue;
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    if (absl::StartsWith(name, "gpt2")) {
      Compare(entry.path().string(), c10::kDouble, 1e-12, 1e-9);
      ++gpt2s;
    } else {
      // Two float32 networks: each has its own q and k, a few roundings apart.
      Compare(entry.path().string(), c10::kFloat, 1e-4, 5e-6);
      ++llamas;
    }
  }
  EXPECT_EQ(llamas, 7);
  EXPECT_EQ(gpt2s, 4);
}

TEST_F(AttentionOracleTest, ThePapersBlockEqualsTheIndependentTwin) {
  const std::vector<std::string> variants = {
      R"({"hidden_dim": 24, "num_heads": 2, "mixer": "none"})",
      R"({"hidden_dim": 24, "state_dim": 12, "num_heads": 4, "mixer": "mlp", "mixer_dim": 40, "num_layers": 3})",
      R"({"hidden_dim": 12, "state_dim": 36, "num_heads": 3, "mixer": "glu", "use_gate": true})",
      R"({"hidden_dim": 24, "state_dim": 8, "num_heads": 2, "mixer": "hybrid", "dim_conv": 4, "max_pos_embed": 0})",
      R"({"hidden_dim": 16, "num_heads": 4, "mixer": "none", "use_gate": true, "dim_conv": 3, "conv_type": "partial",
          "max_pos_embed": 21})"};
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily("softmax-attention"));
  for (size_t i = 0; i < variants.size(); ++i) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings settings, Settings::Parse(variants[i], "the test"));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, family->initialize(settings, i, {}));
    const ModelWeights weights = model->weights().Clone(/*requires_grad=*/false);
    Random random({i});
    for (const at::Tensor& weight : weights.Distinct())
      weight.add_(NormalTensor(random, weight.sizes(), 0.3));
    const std::string folder = absl::StrCat(directory_, "/", i);
    std::filesystem::create_directory(folder);
    EIGSVC_ASSERT_OK(SaveModel(*model, weights, {}, folder + "/model.safetensors"));
  }
  ASSERT_NO_FATAL_FAILURE(RunOracle("twin --seed 2"));
  for (size_t i = 0; i < variants.size(); ++i) {
    SCOPED_TRACE(variants[i]);
    Compare(absl::StrCat(directory_, "/", i), c10::kDouble, 1e-12, 1e-10);
    Compare(absl::StrCat(directory_, "/", i), c10::kFloat, 1e-4, 1e-5);
  }
}

}  // namespace
}  // namespace eigsvc
