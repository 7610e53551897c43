// Against public and independent implementations: Hugging Face transformers, and the float64 twin in
// oracle_mamba2.py for what transformers has not (groups in the state-spaces layout, the paper's block).
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
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
#include "tests/testing/tiny_models.h"

namespace eigsvc {
namespace {

using testing::MaxDifference;
using testing::NormalTensor;
using testing::RecordingTap;
using testing::RelativeDifference;

// Of the logits, relative to the largest; of log λ, relative to max(1, |log λ|).
struct Tolerances {
  double logits, log_decay;
};
constexpr Tolerances kFloat32 = {1e-4, 1e-5};
constexpr Tolerances kFloat64 = {1e-10, 1e-12};

class Mamba2OracleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::string(EIGSVC_ORACLE_PYTHON).empty())
      GTEST_SKIP() << "no oracle: configure with EIGSVC_ORACLE_PYTHON";
    directory_ = ::testing::TempDir() + absl::StrCat("eigsvc_oracle_", getpid());
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void RunOracle(const std::string& arguments) {
    const std::string command =
        absl::StrCat("'", EIGSVC_ORACLE_PYTHON, "' '", testing::SourcePath("tests/zoo/oracle_mamba2.py"),
                     "' ", arguments, " '", directory_, "' > '", directory_, "/log.txt' 2>&1");
    ASSERT_EQ(std::system(command.c_str()), 0) << command << "\n" << Log();
  }

  std::string Log() const {
    std::ifstream file(directory_ + "/log.txt");
    return {std::istreambuf_iterator<char>(file), {}};
  }

  // Compares with DIRECTORY/expected.safetensors: tokens, logits, log_decay.N.
  static void Compare(const std::string& directory, const SequenceModel& model, Tolerances tolerances) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive expected, Archive::Open(directory + "/expected.safetensors"));
    const auto tensor = [&](const std::string& key) {
      return *TensorFromArchive(expected.tensors().at(key));
    };
    RecordingTap tap;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits,
                                model.Forward(model.weights(), tensor("tokens"), {&tap}));
    EXPECT_LE(RelativeDifference(logits, tensor("logits")), tolerances.logits);
    for (int layer = 0; layer < model.description().layers; ++layer) {
      const at::Tensor exact = tensor(absl::StrCat("log_decay.", layer)).to(c10::kDouble);
      ASSERT_EQ(tap.LogMagnitude(layer).sizes(), exact.sizes());
      const at::Tensor error =
          (tap.LogMagnitude(layer).to(c10::kDouble) - exact).abs() / exact.abs().clamp_min(1);
      EXPECT_LE(error.max().item<double>(), tolerances.log_decay) << "layer " << layer;
    }
  }

  at::NoGradGuard no_grad_;
  std::string directory_;
};

TEST_F(Mamba2OracleTest, EqualsTransformers) {
  ASSERT_NO_FATAL_FAILURE(RunOracle("transformers --seed 1"));
  int cases = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    if (!entry.is_directory()) continue;
    SCOPED_TRACE(entry.path().filename().string());
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(entry.path().string()));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, LoadModel(archive, {}, {}));
    EXPECT_EQ(model->description().layout, "huggingface");
    Compare(entry.path().string(), *model, kFloat32);
    ++cases;
  }
  EXPECT_GE(cases, 6);
}

TEST_F(Mamba2OracleTest, EqualsTheIndependentTwin) {
  std::vector<std::string> names;
  uint64_t seed = 20;
  for (const testing::TinyModel& tiny : testing::TinyModels()) {
    if (tiny.family != "mamba2") continue;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, testing::MakeTiny(tiny));
    const ModelWeights weights = model->weights().Clone(/*requires_grad=*/false);
    Random random({seed++});
    for (const at::Tensor& weight : weights.Distinct())
      weight.add_(NormalTensor(random, weight.sizes(), 0.3));
    const std::string name = directory_ + "/" + testing::TinyModelName(tiny);
    std::filesystem::create_directory(name);
    EIGSVC_ASSERT_OK(SaveModel(*model, weights, {}, name + "/model.safetensors"));
    names.push_back(name);
  }
  ASSERT_NO_FATAL_FAILURE(RunOracle("twin --seed 2"));
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(name + "/model.safetensors"));
    LoadOptions options;
    options.dtype = c10::kDouble;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, LoadModel(archive, {}, options));
    Compare(name, *model, kFloat64);
  }
  EXPECT_GE(names.size(), 7u);
}

}  // namespace
}  // namespace eigsvc
