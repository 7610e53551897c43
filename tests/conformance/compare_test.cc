// That the comparison finds what is wrong: cases made by our own models and spoilt one thing at a time.
#include "tests/conformance/compare.h"

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/full.h"
#include "ATen/ops/full_like.h"
#include "ATen/ops/linspace.h"
#include "ATen/ops/ones_like.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros_like.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/safetensors.h"
#include "models/tensor/from_archive.h"
#include "models/transition/eigenvalues.h"
#include "tests/testing/recording_tap.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"
#include "tests/testing/tiny_models.h"

namespace eigsvc::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CompareTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = ::testing::TempDir() + absl::StrCat("eigsvc_compare_", getpid());
    std::filesystem::create_directories(directory_);
    Settings settings;
    settings.Set("layout", "state-spaces");
    settings.Set("d_state", int64_t{3});
    settings.Set("n_layer", int64_t{1});
    EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily("mamba2"));
    LoadOptions options;
    options.dtype = c10::kDouble;
    EIGSVC_ASSERT_OK_AND_ASSIGN(model_, InitializeModel(*family, settings, 1, options));
    EIGSVC_ASSERT_OK(SaveModel(*model_, model_->weights(), {}, directory_ + "/model.safetensors"));
    Random random({2});
    tensors_["tokens"] = RandomTokens(random, 2, 9, 48);
    RecordingTap tap;
    EIGSVC_ASSERT_OK_AND_ASSIGN(tensors_["logits"],
                                model_->Forward(model_->weights(), tensors_["tokens"], {&tap}));
    tensors_["layers.0.mamba2.log_magnitude"] = tap.LogMagnitude(0).unsqueeze(-1);
    WriteCase(R"("family": "mamba2", "layout": "state-spaces")");
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void WriteCase(const std::string& facts, const std::string& dtype = "float64") const {
    std::ofstream(directory_ + "/case.json")
        << R"({"name": "x", "reference": "ours", "checkpoint": "model.safetensors", "dtypes": [")" << dtype
        << R"("], )" << facts << "}";
  }

  // What the comparison says of the tensors as they are now.
  std::vector<std::string> Failures() const {
    std::vector<SafetensorsWriter::Declaration> declarations;
    for (const auto& [name, tensor] : tensors_) {
      declarations.push_back({name, *ElementTypeOf(tensor), tensor.sizes().vec()});
    }
    auto writer = SafetensorsWriter::Create(directory_ + "/expected.safetensors", declarations, {});
    EIGSVC_EXPECT_OK(writer);
    for (const auto& [name, tensor] : tensors_) {
      const at::Tensor dense = tensor.contiguous();
      EIGSVC_EXPECT_OK(writer->Append(
          {static_cast<const std::byte*>(dense.const_data_ptr()), static_cast<size_t>(dense.nbytes())}));
    }
    EIGSVC_EXPECT_OK(writer->Finish());
    return CheckCase(directory_).failures;
  }

  // λ of site 0 as a solver's multiset: each as often as Mamba-2's state has entries.
  void ExpectMultiset(double factor) {
    const at::Tensor log_magnitude = tensors_.at("layers.0.mamba2.log_magnitude");
    tensors_.erase("layers.0.mamba2.log_magnitude");
    const at::Tensor values = (log_magnitude.exp() * factor).repeat({1, 1, 1, 16 * 3});
    tensors_["layers.0.mamba2.eigenvalues.re"] = values;
    tensors_["layers.0.mamba2.eigenvalues.im"] = at::zeros_like(values);
    tensors_["layers.0.mamba2.norm"] = tensors_["layers.0.mamba2.condition"] =
        at::ones_like(log_magnitude.squeeze(-1));
  }

  at::NoGradGuard no_grad_;
  std::string directory_;
  std::shared_ptr<const SequenceModel> model_;
  std::map<std::string, at::Tensor> tensors_;
};

TEST_F(CompareTest, PassesWhatIsEqual) { EXPECT_THAT(Failures(), IsEmpty()); }

TEST_F(CompareTest, SaysThatLogitsDiffer) {
  tensors_["logits"] = tensors_["logits"] * (1 + 1e-10);
  EXPECT_THAT(Failures(),
              ElementsAre(HasSubstr("a logit is off"), HasSubstr("a logit in chunks of time is off")));
  tensors_["logits"][0][3][2].fill_(std::nan(""));
  EXPECT_THAT(Failures(),
              ElementsAre(HasSubstr("a logit is off"), HasSubstr("a logit in chunks of time is off")));
}

TEST_F(CompareTest, SaysThatEigenvaluesDiffer) {
  at::Tensor& values = tensors_["layers.0.mamba2.log_magnitude"];
  const at::Tensor whole = values.clone();
  values[1][5][2][0] += 2e-12;
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("eigenvalues of layers.0.mamba2 are"), HasSubstr("chunks")));
  values = whole.clone();
  values[0][0][0][0].fill_(-INFINITY);
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("inf times"), HasSubstr("inf times")));
  values = whole.narrow(1, 1, 8);
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("[2,8,8,1] is expected")));
  values = whole;
  tensors_["layers.0.mamba2.phase"] = at::full_like(whole, std::numbers::pi);
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("eigenvalues of layers.0.mamba2 are"), HasSubstr("chunks")));
  tensors_["layers.0.mamba2.phase"] = at::full_like(whole, 2 * std::numbers::pi);
  EXPECT_THAT(Failures(), IsEmpty());
}

TEST_F(CompareTest, AsksForTheCasesConvention) {
  const std::string facts = R"("family": "mamba2", "layout": "state-spaces", )";
  WriteCase(facts + R"("gauge": "raw", "rotation": "io")");
  EXPECT_THAT(Failures(), IsEmpty());
  WriteCase(facts + R"("gauge": "dsf")");
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("gauge")));
  WriteCase(facts + R"("rotation": "state")");
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("rotation")));
}

TEST_F(CompareTest, ComparesMultisets) {
  ExpectMultiset(1);
  EXPECT_THAT(Failures(), IsEmpty());
}

TEST_F(CompareTest, SaysThatMultisetsDiffer) {
  ExpectMultiset(1 + 1e-9);
  EXPECT_THAT(Failures(),
              ElementsAre(HasSubstr("by a general solver of layers.0.mamba2"), HasSubstr("chunks")));
}

TEST_F(CompareTest, JudgesFloat32ByLayersWhereTheirInputsAreGiven) {
  const std::string facts = R"("family": "mamba2", "layout": "state-spaces")";
  const ModelWeights& weights = model_->weights();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor before, model_->Embed(weights, tensors_["tokens"], 0));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor after,
                              model_->Layer(0, weights.layers[0], before, nullptr, {}));
  tensors_["layers.0.input"] = before;
  tensors_["layers.1.input"] = after;
  WriteCase(facts, "float32");
  EXPECT_THAT(Failures(), IsEmpty());
  // Of the embedding alone, of layer 0 and of the head, as a whole and in chunks.
  tensors_["layers.0.input"] = before * at::linspace(1, 2, before.size(2), before.options());
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("the embedding is"), HasSubstr("output of layer 0 is"),
                                      HasSubstr("eigenvalues of layers.0.mamba2 are"),
                                      HasSubstr("the embedding in chunks"), HasSubstr("output of layer 0 in"),
                                      HasSubstr("eigenvalues of layers.0.mamba2 in")));
  WriteCase(facts, "float64");  // is judged from end to end
  EXPECT_THAT(Failures(), IsEmpty());
  WriteCase(facts, "float32");
  tensors_["layers.0.input"] = before;
  tensors_["layers.1.input"] = after + 2e-4 * after.abs().max();
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("output of layer 0 is"), HasSubstr("of the head alone is"),
                                      HasSubstr("output of layer 0 in"), HasSubstr("of the head alone in")));
  tensors_["layers.1.input"] = after;
  const at::Tensor logits = tensors_["logits"];
  tensors_["logits"] = logits * 1.001;
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("a logit is"), HasSubstr("of the head alone is"),
                                      HasSubstr("a logit in"), HasSubstr("of the head alone in")));
  tensors_["logits"] = logits;
  tensors_.erase("layers.1.input");
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("lacks layers.1.input")));
}

TEST_F(CompareTest, WantsEverySiteOnBothSides) {
  tensors_["layers.1.mamba2.log_magnitude"] = tensors_["layers.0.mamba2.log_magnitude"];
  EXPECT_THAT(Failures(),
              ElementsAre(HasSubstr("layers.1.mamba2 is not reported"), HasSubstr("layers.1.mamba2")));
  tensors_.erase("layers.0.mamba2.log_magnitude");
  tensors_.erase("layers.1.mamba2.log_magnitude");
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("has nothing of it"), HasSubstr("has nothing of it")));
}

TEST_F(CompareTest, WantsTheFamilyToBeDetected) {
  WriteCase(R"("family": "mamba2", "layout": "huggingface")");
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("is detected as mamba2 (state-spaces)")));
}

TEST_F(CompareTest, AllowsWhatACaseGivesAReasonFor) {
  tensors_["logits"] = tensors_["logits"] * (1 + 1e-10);
  const std::string facts =
      R"("family": "mamba2", "layout": "state-spaces", "tolerances": {"logits": {"float64": 1e-9)";
  WriteCase(facts + "}}");
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("reason")));
  WriteCase(facts + R"(, "reason": "a test"}})");
  EXPECT_THAT(Failures(), IsEmpty());
}

TEST_F(CompareTest, SaysThatFilesAreMissing) {
  std::filesystem::remove(directory_ + "/case.json");
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("case.json")));
  WriteCase(R"("family": "mamba2", "layout": "state-spaces")");
  tensors_.erase("tokens");
  EXPECT_THAT(Failures(), ElementsAre(HasSubstr("lacks tokens")));
}

TEST(MatchMultisetsTest, FindsTheBestAssignmentWhereTheNearestIsNot) {
  const auto complex = [](const std::vector<double>& real, const std::vector<double>& imaginary) {
    return at::complex(at::tensor(real, at::kDouble), at::tensor(imaginary, at::kDouble));
  };
  const at::Tensor tolerance = at::full({3}, 0.1, at::kDouble);
  // Nearest first would give 0 to 0.04 and leave 1.0 for 0.1: the best largest distance is 0.1 - 0.04.
  EXPECT_NEAR(
      MatchMultisets(complex({0.0, 0.1, 5}, {0, 0, 1}), complex({0.04, -0.06, 5}, {0, 0, 1}), tolerance), 0.6,
      1e-12);
  EXPECT_EQ(MatchMultisets(complex({1, 2, 2}, {0, 1, -1}), complex({2, 1, 2}, {-1, 0, 1}), tolerance), 0);
  EXPECT_GT(MatchMultisets(complex({1, 1, 2}, {0, 0, 0}), complex({1, 2, 2}, {0, 0, 0}), tolerance), 9);
  EXPECT_EQ(
      MatchMultisets(complex({1, std::nan(""), 2}, {0, 0, 0}), complex({1, 2, 2}, {0, 0, 0}), tolerance),
      INFINITY);
}

}  // namespace
}  // namespace eigsvc::testing
