// 65,536 steps through small models in memory that grows with the length, not with its square: a matrix of
// scores alone would be 17 GB a head.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>

#include "ATen/Parallel.h"
#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/arange.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/base/stop_token.h"
#include "models/transition/normaliser.h"
#include "models/zoo/registry.h"
#include "tests/testing/recording_tap.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::RandomTokens;
using testing::RecordingTap;

constexpr int64_t kSteps = 65536;

int64_t PeakBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6)) * 1024;
  }
  return 0;
}
void ResetPeak() { std::ofstream("/proc/self/clear_refs") << "5"; }

struct LongModel {
  std::string family, settings;
  int64_t window;  // of its only layer; 0: none
  int64_t megabytes;
};
void PrintTo(const LongModel& model, std::ostream* out) { *out << model.family; }

class LongSequenceTest : public ::testing::TestWithParam<LongModel> {};

// Without queries every score is 0, whatever the tokens: ν_i is the number of keys that step i sees, and
// log λ_i = log(ν_{i-1}/ν_i) is known at every step.
TEST_P(LongSequenceTest, RunsInMemoryOfTheLength) {
  const at::NoGradGuard no_grad;
  const LongModel& given = GetParam();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily(given.family));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings settings, Settings::Parse(given.settings, "the test"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, InitializeModel(*family, settings, 1, {}));
  const ModelWeights weights = model->weights().Clone(/*requires_grad=*/false);
  for (const Weights& layer : weights.layers) {
    at::Tensor queries = layer["self_attn.q_proj.weight"];
    queries.zero_();
  }
  Random random({1});
  const at::Tensor tokens = RandomTokens(random, 1, kSteps, 32);
  const StopToken stop;  // as an analysis runs it: in pieces
  RecordingTap tap;
  ResetPeak();
  const int64_t before = PeakBytes();
  EIGSVC_ASSERT_OK(model->Forward(weights, tokens, {&tap, &stop}));
  const int64_t grown = (PeakBytes() - before) >> 20;
  RecordProperty("megabytes", static_cast<int>(grown));
  EXPECT_GT(before, 0);
  EXPECT_LE(grown, given.megabytes);

  double worst = 0, floor = 0;
  int64_t next = 1;
  for (const RecordingTap::Seen& seen : tap.seen.at(0)) {
    EXPECT_EQ(seen.transition.first_step, next);
    floor = std::max(floor, seen.transition.noise_floor);
    const at::Tensor found = LogMagnitude(std::get<ScalarPerUnit>(seen.transition.kind));
    const int64_t steps = found.size(1);
    at::Tensor keys = at::arange(next, next + steps + 1, at::TensorOptions().dtype(at::kDouble));  // ν_{i-1}
    if (given.window > 0) keys = keys.clamp_max(static_cast<double>(given.window));
    const at::Tensor exact = (keys.narrow(0, 0, steps) / keys.narrow(0, 1, steps)).log().view({1, steps, 1});
    worst = std::max(worst, (found - exact).abs().max().item<double>());
    next += steps;
  }
  EXPECT_EQ(next, kSteps);
  EXPECT_LE(worst, floor);
}

// Widths of 32 and a layer: what is measured is attention.
INSTANTIATE_TEST_SUITE_P(
    Zoo, LongSequenceTest,
    ::testing::Values(
        LongModel{"llama", R"({"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1,
                               "intermediate_size": 64, "vocab_size": 32})",
                  0, 300},
        LongModel{"mistral", R"({"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1,
                                 "intermediate_size": 64, "vocab_size": 32, "sliding_window": 1024})",
                  1024, 300},
        LongModel{"gemma2", R"({"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1,
                                "intermediate_size": 64, "vocab_size": 32, "sliding_window": 512})",
                  512, 300}),
    [](const auto& model) { return model.param.family; });

}  // namespace
}  // namespace eigsvc
