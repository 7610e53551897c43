// RunAnalysis over windows of steps, against plain loops over a model whose every number is exact.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/full.h"
#include "ATen/ops/linalg_eigvals.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/polar.h"
#include "absl/strings/str_cat.h"
#include "c10/core/GradMode.h"
#include "c10/util/Exception.h"
#include "models/analysis/analysis.h"
#include "models/analysis/labelled.h"
#include "models/archive/archive.h"
#include "models/base/status_macros.h"
#include "models/transition/eigenvalues.h"
#include "tests/analysis/fakes.h"
#include "tests/testing/recording_tap.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tiny_models.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::FakeModel;
using ::eigsvc::testing::FakeTask;
using ::eigsvc::testing::StatusIs;
using ::testing::HasSubstr;

constexpr int64_t kVocab = 23;
constexpr double kNoise = 0x1p-20;

// Sums of these are exact; some are the atoms 0 and -inf.
double LogLambda(int layer, int64_t token) {
  if (token == 5) return 0;
  if (token == 6) return -std::numeric_limits<double>::infinity();
  return (layer + 1) * (static_cast<double>(token) - 11) * 0.0625;
}

// Layers 0 and 1 change with the step; layer 1 is like attention: it has no transition into step 0. Layer 2
// is constant. `before` may throw ahead of a chunk.
FakeModel Model(int64_t chunk, std::function<void(int64_t step)> before = nullptr) {
  return FakeModel(
      3, kVocab, [=](int layer, const at::Tensor& x, const LayerContext& context) -> absl::Status {
        if (!context.tap->Wants(layer, "fake")) return absl::OkStatus();
        if (layer == 2) {
          return context.tap->OnTransition(
              layer, "fake", UnitKind::kHead,
              {ScalarPerUnit{at::full({1, 1, 1}, -0.5, at::kFloat), 1}, /*constant=*/true, 0, kNoise});
        }
        at::Tensor values = at::full({x.size(0), x.size(1), 1}, 0.0, at::kFloat);
        for (int64_t i = 0; i < values.numel(); ++i) {
          values.mutable_data_ptr<float>()[i] = static_cast<float>(
              LogLambda(layer, static_cast<int64_t>(x.contiguous().const_data_ptr<float>()[i])));
        }
        for (int64_t first = layer; first < x.size(1); first += chunk) {
          if (before) before(first);
          const at::Tensor part = values.narrow(1, first, std::min(chunk, x.size(1) - first));
          EIGSVC_RETURN_IF_ERROR(context.tap->OnTransition(layer, "fake", UnitKind::kHead,
                                                           {ScalarPerUnit{part, 16}, false, first, kNoise}));
        }
        return absl::OkStatus();
      });
}

absl::StatusOr<AnalysisResult> Analyse(const SequenceModel& model, const Task& task,
                                       const AnalysisOptions& options) {
  return RunAnalysis(model, task, options, nullptr, StopToken());
}

// The first steps of windows of a row.
std::vector<int64_t> Begins(const Window& window, int64_t origin, int64_t length) {
  std::vector<int64_t> begins;
  for (int64_t begin = origin; begin + window.length <= length; begin += window.stride)
    begins.push_back(begin);
  return begins;
}

double SumFrom(const FakeTask& task, int layer, int64_t example, int64_t begin, int64_t length) {
  double sum = 0;
  for (int64_t step = begin; step < begin + length; ++step)
    sum += LogLambda(layer, task.Token(example, step));
  return sum;
}

void ExpectWindows(const FakeTask& task, int64_t examples, const AnalysisOptions& options,
                   const AnalysisResult& result) {
  ASSERT_EQ(result.sites.size(), 3u);
  EXPECT_EQ(result.window, options.window);
  const double noise = kNoise * static_cast<double>(options.window.length);
  for (int layer = 0; layer < 2; ++layer) {
    Spectrum expected;
    const int64_t origin = std::max<int64_t>(layer, options.include_first_step ? 0 : 1);
    for (int64_t example = 0; example < examples; ++example) {
      for (const int64_t begin : Begins(options.window, origin, task.Length(example))) {
        const double sum = SumFrom(task, layer, example, begin, options.window.length);
        expected.Add(absl::MakeConstSpan(&sum, 1), noise);
      }
    }
    EXPECT_TRUE(result.sites[layer].spectrum.parts() == expected.parts()) << "layer " << layer;
    EXPECT_FALSE(result.sites[layer].constant);
  }
  const double constant = -0.5 * static_cast<double>(options.window.length);
  EXPECT_EQ(result.sites[2].spectrum.count(), 1u);
  EXPECT_EQ(result.sites[2].spectrum.Max(), constant);
}

using Parameters = std::tuple<Window, int64_t, bool, bool>;
class WindowCountsTest : public ::testing::TestWithParam<Parameters> {};

TEST_P(WindowCountsTest, EveryWindowInsideALengthIsCountedOnce) {
  const auto [window, chunk, include_first, defer] = GetParam();
  const FakeTask task(41, kVocab, /*steps=*/12, /*longest=*/11);
  AnalysisOptions options;
  options.window = window;
  options.include_first_step = include_first;
  options.defer_counts = defer;
  options.batch_size = 7;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(Model(chunk), task, options));
  ExpectWindows(task, 41, options, result);
}

INSTANTIATE_TEST_SUITE_P(Windows, WindowCountsTest,
                         ::testing::Combine(::testing::Values(Window{1, 3}, Window{2, 1}, Window{3, 3},
                                                              Window{4, 2}, Window{2, 5}, Window{7, 1},
                                                              Window{10, 10}),
                                            ::testing::Values(1, 3, 12), ::testing::Bool(),
                                            ::testing::Bool()));

TEST(WindowTest, OneStepIsTheStepItself) {
  const FakeTask task(41, kVocab, 12, 11);
  AnalysisOptions options;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult plain, Analyse(Model(5), task, options));
  options.window = {1, 1};
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult windows, Analyse(Model(5), task, options));
  ASSERT_EQ(plain.sites.size(), windows.sites.size());
  for (size_t i = 0; i < plain.sites.size(); ++i)
    EXPECT_TRUE(plain.sites[i].spectrum.parts() == windows.sites[i].spectrum.parts());
}

TEST(WindowTest, AHalvedBatchCountsEachWindowOnce) {
  const FakeTask task(12, kVocab, 12, 11);
  AnalysisOptions options;
  options.window = {4, 3};
  options.batch_size = 8;
  int64_t calls = 0;
  // The second chunk of a layer's first batch does not fit.
  const FakeModel model = Model(3, [&](int64_t) {
    if (++calls == 2) TORCH_CHECK_WITH(OutOfMemoryError, false, "no memory");
  });
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, task, options));
  ExpectWindows(task, 12, options, result);
  EXPECT_EQ(result.batch_size, 4);
}

TEST(WindowTest, AWindowThatNoSequenceHasIsRefused) {
  const FakeTask task(41, kVocab, /*steps=*/12, /*longest=*/9);
  AnalysisOptions options;
  options.window = {9, 9};
  EXPECT_THAT(Analyse(Model(5), task, options),
              StatusIs(StatusCode::kInvalidArgument,
                       HasSubstr("no sequence has a window of 9 steps that count; the longest has 9 steps")));
}

TEST(WindowTest, TheExportHoldsWindowsAtTheirPlaces) {
  const FakeTask task(9, kVocab, /*steps=*/12, /*longest=*/8);
  AnalysisOptions options;
  options.window = {3, 2};
  options.batch_size = 4;
  options.export_path = ::testing::TempDir() + "windows_test.safetensors";
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(Model(5), task, options));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(options.export_path));
  std::string header(4096, '\0');
  std::ifstream(options.export_path, std::ios::binary).read(header.data(), 4096);
  EXPECT_THAT(header, HasSubstr(R"("window_length":"3")"));
  EXPECT_THAT(header, HasSubstr(R"("window_stride":"2")"));
  EXPECT_THAT(header, HasSubstr("first_step + i window_stride"));
  for (int layer = 0; layer < 2; ++layer) {
    const auto& tensor = archive.tensors().at("layers." + std::to_string(layer) + ".fake.log_magnitude");
    EXPECT_EQ(tensor.type, ElementType::kFloat64);
    ASSERT_EQ(tensor.shape, (std::vector<int64_t>{9, 5, 1, 1}));
    for (int64_t row = 0; row < 9; ++row) {
      const std::vector<int64_t> begins = Begins(options.window, 1, task.Length(row));
      for (int64_t i = 0; i < 5; ++i) {
        const double value = ElementAsDouble(tensor, row * 5 + i);
        if (i < static_cast<int64_t>(begins.size())) {
          EXPECT_EQ(value, SumFrom(task, layer, row, begins[i], 3)) << row << ", " << i;
        } else {
          EXPECT_TRUE(std::isnan(value)) << row << ", " << i;
        }
      }
    }
  }
  EXPECT_EQ(ElementAsDouble(archive.tensors().at("layers.2.fake.log_magnitude"), 0), -1.5);
  std::filesystem::remove(options.export_path);
}

// Two rows of as many steps as there are.
class FullTask final : public Task {
 public:
  explicit FullTask(int64_t steps) : task_(2, kVocab, steps, steps), steps_(steps) {}
  absl::string_view name() const override { return task_.name(); }
  const Settings& parameters() const override { return task_.parameters(); }
  const TaskSignature& signature() const override { return task_.signature(); }
  int64_t example_count(Split split) const override { return task_.example_count(split); }
  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    EIGSVC_ASSIGN_OR_RETURN(Batch batch, task_.Draw(split, first, count));
    batch.lengths.assign(count, steps_);
    for (int64_t i = 0; i < count * steps_; ++i) batch.tokens[i] = (7 * i + first) % kVocab;
    return batch;
  }
  Score ComputeScore(Split split, absl::Span<const Prediction> predictions) const override {
    return task_.ComputeScore(split, predictions);
  }

 private:
  const FakeTask task_;
  const int64_t steps_;
};

// Λ of each step and unit, [B,T,U,N,N] complex, of a transition that changes with the step. Diagonal ones by
// their eigenvalues.
at::Tensor StepMatrices(const Transition& transition) {
  const auto full = [](const at::Tensor& x) { return x.to(at::kComplexDouble); };
  if (const auto* dense = std::get_if<Dense>(&transition.kind)) return full(dense->matrix);
  if (const auto* kind = std::get_if<DiagonalPlusLowRank>(&transition.kind)) {
    return at::diag_embed(full(kind->d).expand(kind->u.sizes().slice(0, 4))) -
           at::matmul(full(kind->u), full(kind->v).transpose(-1, -2));
  }
  const Eigenvalues steps = ComputeEigenvalues(transition).value();
  const at::Tensor size = steps.log_magnitude.to(at::kDouble).exp();
  return at::diag_embed(at::polar(size, steps.phase.defined() ? steps.phase.to(at::kDouble) : size * 0));
}

std::vector<double> Sorted(std::vector<double> values) {
  std::sort(values.begin(), values.end(), std::greater<>());
  return values;
}

// Every family: what an analysis writes of windows is what the products of its own steps have, formed, for
// windows short enough that they can be.
class ZooWindowsTest : public ::testing::TestWithParam<testing::TinyModel> {};

TEST_P(ZooWindowsTest, AreProductsOfSteps) {
  constexpr int64_t kSteps = 10;
  const Window window{3, 2};
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, testing::MakeTiny(GetParam(), 1, at::kDouble));
  const FullTask task(kSteps);
  EIGSVC_ASSERT_OK(CheckFits(task, model->description()));
  AnalysisOptions options;
  options.examples = 2;
  options.batch_size = 2;
  options.window = window;
  options.export_path =
      ::testing::TempDir() + "zoo_windows_" + testing::TinyModelName(GetParam()) + ".safetensors";
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(*model, task, options));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(options.export_path));
  const c10::NoGradGuard no_grad;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task.Draw(Split::kTest, 0, 2));
  testing::RecordingTap tap;
  LayerContext context;
  context.tap = &tap;
  EIGSVC_ASSERT_OK(model->Forward(model->weights(), InputTensor(batch, c10::kCPU), context));
  std::map<std::pair<int, std::string>, std::vector<at::Tensor>> chunks;
  std::map<std::pair<int, std::string>, int64_t> first_steps;
  for (const auto& [layer, seen] : tap.seen) {
    for (const auto& [mixer, unit_kind, transition] : seen) {
      if (transition.constant) continue;
      first_steps.try_emplace({layer, mixer}, transition.first_step);
      chunks[{layer, mixer}].push_back(StepMatrices(transition));
    }
  }
  for (const auto& [site, parts] : chunks) {
    const at::Tensor all = at::cat(parts, 1);
    const int64_t origin = std::max<int64_t>(first_steps.at(site), 1);
    const at::Tensor steps = all.narrow(1, origin - first_steps.at(site), kSteps - origin);
    const ArchiveTensor& found =
        archive.tensors().at(absl::StrCat("layers.", site.first, ".", site.second, ".log_magnitude"));
    const int64_t count = window.Count(kSteps - origin), units = steps.size(2);
    const int64_t size = steps.size(3), stored = found.shape.at(3);
    ASSERT_EQ(found.shape, (std::vector<int64_t>{2, count, units, stored}));
    for (int64_t i = 0; i < 2 * count * units; ++i) {
      const int64_t unit = i % units, w = i / units % count, row = i / units / count;
      at::Tensor product = at::eye(size, steps.options());
      for (int64_t k = 0; k < 3; ++k) product = at::matmul(steps[row][w * 2 + k][unit], product);
      std::vector<double> expected, logs;
      const at::Tensor values = at::linalg_eigvals(product).abs().log().contiguous();
      for (int64_t n = 0; n < size; ++n) expected.push_back(values.const_data_ptr<double>()[n]);
      // What is shared is stored once, in front.
      for (int64_t n = 0; n < stored; ++n)
        logs.insert(logs.end(), n == 0 ? size - stored + 1 : 1, ElementAsDouble(found, i * stored + n));
      expected = Sorted(expected);
      logs = Sorted(logs);
      for (int64_t n = 0; n < size; ++n) {
        // The smaller ones are rounding of the larger ones in what was formed.
        if (expected[n] < expected[0] - 18) break;
        ASSERT_NEAR(logs[n], expected[n], 1e-5 * std::max(1.0, std::abs(expected[n])))
            << "layer " << site.first << ", " << site.second << ", window " << w << ", unit " << unit;
      }
    }
  }
  std::filesystem::remove(options.export_path);
}

INSTANTIATE_TEST_SUITE_P(Families, ZooWindowsTest, ::testing::ValuesIn(testing::TinyTokenModels()),
                         [](const auto& of) { return testing::TinyModelName(of.param); });

}  // namespace
}  // namespace eigsvc
