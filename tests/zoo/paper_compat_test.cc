// Definition PAPER_COMPAT of whole models: who has it, and that each switch is one of its own. Its numbers
// are held to tests/conformance's oracles and, by tests/conformance/released_analysis.py, to the released
// code.
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/isfinite.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/transition/eigenvalues.h"
#include "models/transition/normaliser.h"
#include "models/zoo/registry.h"
#include "tests/testing/recording_tap.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"
#include "tests/testing/tiny_models.h"

namespace eigsvc {
namespace {

using ::testing::HasSubstr;
using testing::NormalTensor;
using testing::RandomTokens;
using testing::RecordingTap;
using testing::TinyModel;

const std::set<std::string> kAnalysed = {
    "softmax-attention", "linear-attention", "norm-attention", "mamba2", "lru", "s4", "s5"};

class PaperCompatModelTest : public ::testing::Test {
 protected:
  // What layer 0 reports over 12 steps: `departures` by name.
  static RecordingTap::Seen Reported(const SequenceModel& model, const std::vector<std::string>& departures) {
    const ModelDescription& description = model.description();
    LayerContext context;
    RecordingTap tap;
    context.tap = &tap;
    context.convention = *ResolveConvention(
        *ParseConvention(departures.empty() ? "EXACT" : "PAPER_COMPAT", departures, "", ""),
        description.conventions, description.family);
    Random random({4});
    const at::Tensor inputs = description.vocab_size > 0
                                  ? RandomTokens(random, 2, 12, description.vocab_size)
                                  : NormalTensor(random, {2, 12, description.channels}).to(model.dtype());
    EXPECT_THAT(model.Forward(model.weights(), inputs, context), testing::IsOk());
    EXPECT_EQ(tap.seen[0].size(), 1u);
    return tap.seen[0].at(0);
  }

  static std::shared_ptr<const SequenceModel> Make(const std::string& family, const std::string& json,
                                                   at::ScalarType dtype = at::kDouble) {
    LoadOptions options;
    options.dtype = dtype;
    return *InitializeModel(**FindFamily(family), *Settings::Parse(json, "a test's settings"), 1, options);
  }

 private:
  const at::NoGradGuard no_grad_;
};

TEST_F(PaperCompatModelTest, IsOfThePapersModelsAloneAndTheRefusalNamesThem) {
  std::set<std::string> found;
  for (const TinyModel& tiny : testing::TinyModels()) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, testing::MakeTiny(tiny));
    if (!model->description().conventions.departures.Any()) continue;
    EXPECT_EQ(tiny.layout, "paper") << tiny.family;
    found.insert(tiny.family);
  }
  EXPECT_EQ(found, kAnalysed);
  const auto refused = ResolveConvention(*ParseConvention("PAPER_COMPAT", {}, "", ""), {}, "llama");
  for (const std::string& family : kAnalysed) {
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr(family));
  }
}

TEST_F(PaperCompatModelTest, EverySwitchOfTheTransitionsChangesThem) {
  int switches = 0;
  for (const TinyModel& tiny : testing::TinyModels()) {
    if (tiny.layout != "paper" || tiny.family == "s4") continue;
    SCOPED_TRACE(testing::TinyModelName(tiny));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, testing::MakeTiny(tiny, 1, at::kDouble));
    const Eigenvalues exact = *ComputeEigenvalues(Reported(*model, {}).transition);
    for (const std::string& name : DepartureNames(model->description().conventions.departures)) {
      if (name == "E7") continue;  // changes normalisers of 0 alone
      const bool counts = name == "E6" || name == "E9" || name == "E10";
      const RecordingTap::Seen seen = Reported(*model, {name});
      const Eigenvalues departing = *ComputeEigenvalues(seen.transition);
      ASSERT_EQ(departing.log_magnitude.sizes(), exact.log_magnitude.sizes()) << name;
      const double change = testing::MaxDifference(departing.log_magnitude, exact.log_magnitude);
      EXPECT_TRUE(counts ? change < 1e-9 : change > 1e-5) << name << " changes log λ by " << change;
      ++switches;
    }
  }
  EXPECT_GT(switches, 40);
}

TEST_F(PaperCompatModelTest, DeadHeadsOfNormAttentionHaveEigenvaluesOfOne) {
  // Fresh offsets lie in [4, 9]: e^{-e^a} is 0 in float32 from a = 4.7 on.
  const auto model = Make("norm-attention", R"({"num_heads": 4, "norm_fn": "exp"})", at::kFloat);
  const at::Tensor own = LogMagnitude(std::get<ScalarPerUnit>(Reported(*model, {}).transition.kind));
  const at::Tensor released = LogMagnitude(std::get<ScalarPerUnit>(Reported(*model, {"E7"}).transition.kind));
  EXPECT_GT(own.select(-1, 3).abs().min().item<double>(), 0);
  EXPECT_EQ(released.select(-1, 3).abs().max().item<double>(), 0);
  EXPECT_GT(released.select(-1, 0).abs().max().item<double>(), 0);
}

TEST_F(PaperCompatModelTest, TheReleasedS4IsOneChannel) {
  const auto model = Make("s4", R"({"hidden_dim": 6, "state_dim": 3})");
  const RecordingTap::Seen exact = Reported(*model, {"E9"}), seen = Reported(*model, {"E8"});
  EXPECT_EQ(exact.unit_kind, UnitKind::kChannel);
  EXPECT_EQ(seen.unit_kind, UnitKind::kLayer);
  EXPECT_TRUE(seen.transition.constant);
  const Eigenvalues channels = *ComputeEigenvalues(exact.transition);
  const Eigenvalues found = *ComputeEigenvalues(seen.transition);
  ASSERT_EQ(found.log_magnitude.sizes(), at::IntArrayRef({1, 1, 1, 3}));
  // Fresh channels differ in their step sizes alone.
  const at::Tensor own = std::get<0>(channels.log_magnitude[0][0][1].sort());
  EXPECT_LE(testing::MaxDifference(std::get<0>(found.log_magnitude.flatten().sort()), own), 1e-4);
  const at::Tensor other = std::get<0>(channels.log_magnitude[0][0][0].sort());
  EXPECT_GT(testing::MaxDifference(std::get<0>(found.log_magnitude.flatten().sort()), other), 1e-3);
}

TEST_F(PaperCompatModelTest, RunsInReducedPrecision) {
  for (const std::string family :
       {"softmax-attention", "linear-attention", "norm-attention", "mamba2", "lru", "s4"}) {
    const auto model = Make(family, R"({"layout": "paper"})", at::kBFloat16);
    const RecordingTap::Seen seen =
        Reported(*model, DepartureNames(model->description().conventions.departures));
    EXPECT_TRUE(at::isfinite(ComputeEigenvalues(seen.transition)->log_magnitude).all().item<bool>())
        << family;
  }
}

}  // namespace
}  // namespace eigsvc
