// What is counted beside a forward pass on a CUDA device: that no number is counted from memory that the
// pass has taken back, and which families' passes wait for nothing of the device.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/full.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "c10/core/GradMode.h"
#include "c10/cuda/CUDAFunctions.h"
#include "c10/util/Exception.h"
#include "gtest/gtest.h"
#include "models/analysis/deferred_counts.h"
#include "models/analysis/labelled.h"
#include "models/analysis/spectrum_tap.h"
#include "models/tensor/torch_call.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"
#include "tests/testing/tiny_models.h"

namespace eigsvc {
namespace {

using testing::NormalTensor;
using testing::TinyModel;

const c10::Device kCuda(c10::kCUDA, 0);

using Counts = std::map<std::pair<DeferredCounts::SiteName, int64_t>, Spectrum>;
DeferredCounts::Sink Into(Counts& counts) {
  return [&](const DeferredCounts::SiteName& site, int64_t unit, Spectrum spectrum) {
    counts[{site, unit}].Merge(std::move(spectrum));
  };
}

CountedChunk ChunkOf(const at::Tensor& log_magnitude, const at::Tensor& phase, c10::Device device) {
  CountedChunk chunk;
  chunk.log_magnitude = log_magnitude.to(device);
  if (phase.defined()) chunk.phase = phase.to(device);
  const auto options = at::TensorOptions().device(device);
  chunk.noise_floor = at::full({}, 1e-6, options.dtype(c10::kDouble));
  chunk.lengths = at::full({log_magnitude.size(0)}, log_magnitude.size(1), options.dtype(c10::kLong));
  chunk.weights = {1};
  return chunk;
}

// Every count stands in a line behind one that takes long (all its phases add to one number), while what the
// counts are of is let go of and its memory asked for again.
TEST(SideStreamGpuTest, MemoryThatIsStillCountedIsNotGivenAway) {
  Random random({21});
  Counts found, expected;
  DeferredCounts on_device(kCuda, Into(found)), on_host(c10::kCPU, Into(expected));
  const at::Tensor slow = at::full({1, 1 << 20, 1, 1}, -0.5, c10::kDouble), phase = slow * -2;
  for (int round = 0; round < 10; ++round) {
    EIGSVC_ASSERT_OK(on_host.Add({0, "slow"}, ChunkOf(slow, phase, c10::kCPU)));
    EIGSVC_ASSERT_OK(on_device.Add({0, "slow"}, ChunkOf(slow, phase, kCuda)));
    EIGSVC_ASSERT_OK(on_device.Launch());
    for (int layer = 1; layer < 6; ++layer) {
      const at::Tensor values = NormalTensor(random, {1, 1000, 4, 1}).to(c10::kFloat);
      EIGSVC_ASSERT_OK(on_host.Add({layer, "quick"}, ChunkOf(values, {}, c10::kCPU)));
      EIGSVC_ASSERT_OK(on_device.Add({layer, "quick"}, ChunkOf(values, {}, kCuda)));
      EIGSVC_ASSERT_OK(on_device.Launch());
      const at::Tensor again =
          at::full(values.sizes(), NAN, at::TensorOptions().dtype(c10::kFloat).device(kCuda));
    }
    if (round % 3 == 0) {
      EIGSVC_ASSERT_OK(on_device.Collect());
    }
  }
  EIGSVC_ASSERT_OK(on_device.Collect());
  EIGSVC_ASSERT_OK(on_host.Collect());
  ASSERT_EQ(found.size(), 21u);
  ASSERT_EQ(expected.size(), 21u);
  for (const auto& [unit, spectrum] : expected) {
    EXPECT_TRUE(found.at(unit).parts() == spectrum.parts()) << unit.first.first << ", unit " << unit.second;
  }
}

// LibTorch refuses what would wait for the device.
class NoWaiting {
 public:
  NoWaiting() { Set(c10::cuda::SyncDebugMode::L_ERROR); }
  ~NoWaiting() { Set(c10::cuda::SyncDebugMode::L_DISABLED); }

 private:
  static void Set(c10::cuda::SyncDebugMode mode) { c10::cuda::warning_state().set_sync_debug_mode(mode); }
};

TEST(WaitingTest, IsNoticed) {
  const at::Tensor one = at::full({}, 1.0, kCuda);
  const NoWaiting no_waiting;
  EXPECT_THROW(one.item<double>(), c10::Error);
}

// A general eigenvalue solver says whether it converged, routed experts how many tokens each has.
bool MustWait(const SequenceModel& model) {
  bool dense = false, routed = false;
  for (const std::vector<MixerDescription>& layer : model.description().mixers) {
    for (const MixerDescription& mixer : layer)
      dense = dense || (mixer.form == TransitionForm::kDense && !mixer.constant);
  }
  for (const WeightSpec& weight : model.plan()) routed = routed || absl::StrContains(weight.name, "experts.");
  return dense || routed;
}

class WaitingGpuTest : public ::testing::TestWithParam<TinyModel> {};

TEST_P(WaitingGpuTest, OnlyTheFamiliesThatMustWaitDo) {
  const c10::NoGradGuard no_grad;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* const family, FindFamily(GetParam().family));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model,
                              InitializeModel(*family, GetParam().settings, 1, {.device = kCuda}));
  const ModelDescription& description = model->description();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Convention convention,
                              ResolveConvention({}, description.conventions, description.family));
  Random random({3});
  Batch batch;
  batch.rows = 2;
  batch.steps = description.max_positions > 0 ? std::min<int64_t>(33, description.max_positions) : 33;
  batch.lengths = {batch.steps, batch.steps - 3};
  const at::Tensor tokens =
      testing::RandomTokens(random, batch.rows, batch.steps, testing::kTinyVocabulary).to(kCuda);
  const AnalysisOptions options;
  SpectrumTap tap(options, kCuda, StopToken::Never(), /*eigenvalues=*/nullptr);
  const auto pass = [&](int64_t first_row) -> absl::Status {
    CountedSteps counted;
    tap.BeginRows(first_row, &batch, &counted);
    absl::StatusOr<at::Tensor> x = model->Embed(model->weights(), tokens, 0);
    for (int layer = 0; x.ok() && layer < description.layers; ++layer) {
      const LayerContext context{&tap, &StopToken::Never(), convention};
      x = model->Layer(layer, model->weights().layers[layer], *x, nullptr, context);
    }
    return x.ok() ? tap.EndRows() : x.status();
  };
  EIGSVC_ASSERT_OK(pass(0));  // what stays the same from batch to batch is made now
  EIGSVC_ASSERT_OK(tap.Collect());
  absl::Status second;
  {
    const NoWaiting no_waiting;
    second = pass(2);
  }
  EIGSVC_ASSERT_OK(tap.Collect());
  EXPECT_EQ(second.ok(), !MustWait(*model)) << second;
}

INSTANTIATE_TEST_SUITE_P(Families, WaitingGpuTest, ::testing::ValuesIn(testing::TinyTokenModels()),
                         [](const auto& param) { return testing::TinyModelName(param.param); });

}  // namespace
}  // namespace eigsvc
