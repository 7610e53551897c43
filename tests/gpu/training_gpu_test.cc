// Training on a CUDA device against the CPU: the gradients of one step for every family, and a short run.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/zeros_like.h"
#include "c10/core/GradMode.h"
#include "gtest/gtest.h"
#include "models/tensor/device.h"
#include "models/training/loss.h"
#include "models/training/optimizer.h"
#include "models/training/training.h"
#include "models/zoo/registry.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tiny_models.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::TinyModel;

const c10::Device kCuda(c10::kCUDA, 0);
const bool kFullFloat32 = [] { return RequireFullFloat32(), true; }();

std::shared_ptr<const Task> SmallTask() {
  const Settings parameters =
      Settings::Parse(R"({"vocab_size": 48, "input_seq_len": 16, "num_kv_pairs": 2, "train_examples": 960,
                          "test_examples": 64})",
                      "test")
          .value();
  static_assert(testing::kTinyVocabulary == 48);
  return MakeTask("mqar", {.parameters = parameters, .seed = 5}).value();
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> Initialised(const TinyModel& tiny, c10::Device device,
                                                                 c10::ScalarType dtype) {
  const absl::StatusOr<const FamilyEntry*> family = FindFamily(tiny.family);
  if (!family.ok()) return family.status();
  return InitializeModel(**family, tiny.settings, 1, {.device = device, .dtype = dtype});
}

struct Step {
  double loss = 0;
  std::vector<std::string> keys;
  std::vector<at::Tensor> gradients;  // float64, on the CPU
};

absl::StatusOr<Step> OneStep(const TinyModel& tiny, c10::Device device, c10::ScalarType dtype) {
  const auto model = Initialised(tiny, device, dtype);
  if (!model.ok()) return model.status();
  const absl::StatusOr<Batch> batch = SmallTask()->Draw(Split::kTrain, 0, 3);
  if (!batch.ok()) return batch.status();
  const ModelWeights weights = (*model)->weights().Clone(/*requires_grad=*/true);
  const c10::AutoGradMode with_gradients(true);
  const absl::StatusOr<at::Tensor> loss = TrainingLoss(**model, weights, *batch, StopToken::Never());
  if (!loss.ok()) return loss.status();
  loss->backward();
  Step step;
  step.loss = loss->item<double>();
  for (const Parameter& parameter : ListParameters(**model, weights)) {
    step.keys.push_back(parameter.key);
    // None of what no token went through, like an expert that was not chosen.
    const at::Tensor& gradient = parameter.value.grad();
    step.gradients.push_back(
        (gradient.defined() ? gradient : at::zeros_like(parameter.value)).cpu().to(at::kDouble));
  }
  return step;
}

double Size(const at::Tensor& x) { return x.abs().max().item<double>(); }

class FamilyTrainingGpuTest : public ::testing::TestWithParam<TinyModel> {};

// Within 1e-3 of each parameter's largest, or ten times what the CPU's float32 is off from its float64. What
// cancels to nothing, like the gradient of a key's bias, is measured by the largest of all.
TEST_P(FamilyTrainingGpuTest, GradientsOfOneStepAreThoseOfTheCpu) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Step exact, OneStep(GetParam(), c10::kCPU, c10::kDouble));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Step narrow, OneStep(GetParam(), c10::kCPU, c10::kFloat));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Step found, OneStep(GetParam(), kCuda, c10::kFloat));
  EXPECT_NEAR(found.loss, exact.loss, 1e-4 * exact.loss);
  ASSERT_EQ(found.keys, exact.keys);
  double largest = 0;
  for (const at::Tensor& gradient : exact.gradients) largest = std::max(largest, Size(gradient));
  for (size_t i = 0; i < exact.keys.size(); ++i) {
    const at::Tensor& truth = exact.gradients[i];
    const double allowed = 1e-3 * Size(truth) + 1e-6 * largest + 10 * Size(narrow.gradients[i] - truth);
    EXPECT_LE(Size(found.gradients[i] - truth), allowed)
        << exact.keys[i] << ", whose largest is " << Size(truth);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyTrainingGpuTest, ::testing::ValuesIn(testing::TinyTokenModels()),
                         [](const auto& param) { return testing::TinyModelName(param.param); });

TEST(TrainingGpuTest, TheLossFallsAsOnTheCpu) {
  const Settings settings =
      Settings::Parse(R"({"d_model": 16, "n_layer": 2, "d_state": 8, "headdim": 8, "vocab_size": 48})",
                      "test")
          .value();
  const TinyModel mamba2{"mamba2", "", "", settings};
  TrainingOptions options;
  options.steps = 60;
  options.batch_size = 16;
  options.learning_rate = 1e-2;
  options.warmup_steps = 4;
  options.eval_every = 1;  // each report has one step's loss
  options.eval_examples = 16;
  std::vector<double> losses[2];
  for (const bool on_device : {false, true}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model,
                                Initialised(mamba2, on_device ? kCuda : c10::Device(c10::kCPU), c10::kFloat));
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        const TrainingResult result,
        RunTraining(
            *model, *SmallTask(), options,
            [&](const TrainingProgress& report) { losses[on_device].push_back(report.loss); }, StopToken()));
    EXPECT_EQ(result.steps, 60);
    ASSERT_EQ(result.sites.size(), 2u * 4);
    for (const SiteSpectrum& site : result.sites) EXPECT_EQ(site.spectrum.nonfinite(), 0u);
  }
  const std::vector<double>&cpu = losses[0], &cuda = losses[1];
  ASSERT_EQ(cpu.size(), 60u);
  ASSERT_EQ(cuda.size(), 60u);
  const auto of_last_ten = [](const std::vector<double>& x) {
    return std::accumulate(x.end() - 10, x.end(), 0.0) / 10;
  };
  EXPECT_NEAR(cuda.front(), cpu.front(), 1e-3 * cpu.front());
  EXPECT_LT(of_last_ten(cuda), cuda.front() - 0.5);
  // Rounding drives two runs apart, not their losses.
  EXPECT_NEAR(of_last_ten(cuda), of_last_ten(cpu), 0.1);
}

}  // namespace
}  // namespace eigsvc
