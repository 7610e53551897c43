// The export read back by the archive's own reader, against closed forms.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numbers>
#include <tuple>

#include "ATen/TensorOperators.h"
#include "ATen/ops/full.h"
#include "ATen/ops/tensor.h"
#include "models/analysis/analysis.h"
#include "models/archive/archive.h"
#include "models/base/status_macros.h"
#include "tests/analysis/fakes.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::FakeModel;
using ::eigsvc::testing::FakeTask;
using ::eigsvc::testing::StatusIs;
using ::testing::HasSubstr;

constexpr int64_t kVocab = 23;
constexpr double kNoisePerToken = 1e-9;

// Three layers: "decay" starts at step 0 and has three real eigenvalues that change sign with the token (not
// with the first example's); "attention" starts at step 1; "fixed" is constant. The first two come in chunks
// of `chunk` steps.
absl::Status ReportChunks(int64_t chunk, int layer, const at::Tensor& x, const LayerContext& context) {
  const at::Tensor tokens = x.squeeze(-1).to(at::kDouble);
  const absl::string_view mixer = layer == 0 ? "decay" : layer == 1 ? "attention" : "fixed";
  if (!context.tap->Wants(layer, mixer)) return absl::OkStatus();
  if (layer == 2) {
    return context.tap->OnTransition(
        layer, mixer, UnitKind::kHead,
        {ScalarPerUnit{at::full({1, 1, 5}, -0.5, at::kFloat), 1}, /*constant=*/true, 0, 1e-7});
  }
  for (int64_t first = layer; first < x.size(1); first += chunk) {
    const at::Tensor part = tokens.narrow(1, first, std::min(chunk, x.size(1) - first));
    const double noise = kNoisePerToken * part.max().item<double>();  // of all rows of the batch
    Transition transition =
        layer == 0
            ? Transition{Diagonal{((11.5 - part) / 16).unsqueeze(-1).unsqueeze(-1).expand({-1, -1, 2, 3}),
                                  Discretization::kNone, false, 4},
                         /*constant=*/false, first, noise}
            : Transition{ScalarPerUnit{(part * -0.125).to(at::kFloat).unsqueeze(-1), 0},
                         /*constant=*/false, first, noise};
    EIGSVC_RETURN_IF_ERROR(context.tap->OnTransition(layer, mixer, UnitKind::kHead, std::move(transition)));
  }
  return absl::OkStatus();
}

absl::Status Report(int layer, const at::Tensor& x, const LayerContext& context) {
  return ReportChunks(x.size(1), layer, x, context);
}

class ExportTest : public ::testing::Test {
 protected:
  const FakeModel model_{3, kVocab, Report};
  const FakeTask task_{7, kVocab, /*steps=*/6, /*longest=*/5};
};
class ExportBatchesTest : public ExportTest,
                          public ::testing::WithParamInterface<std::tuple<int64_t, bool, int64_t>> {};

TEST_P(ExportBatchesTest, HoldsEveryEigenvalueAtItsPlace) {
  const auto [batch_size, include_first, chunk] = GetParam();
  const FakeModel model(3, kVocab,
                        [chunk = chunk](int layer, const at::Tensor& x, const LayerContext& context) {
                          return ReportChunks(chunk, layer, x, context);
                        });
  AnalysisOptions options;
  options.batch_size = batch_size;
  options.include_first_step = include_first;
  options.export_path = ::testing::TempDir() + "export_test.safetensors";
  options.export_metadata = {{"checkpoint_sha256", "abc"}};
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result,
                              RunAnalysis(model, task_, options, nullptr, StopToken()));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(options.export_path));
  const auto& tensors = archive.tensors();
  ASSERT_EQ(tensors.size(), 8u);
  const int64_t first = include_first ? 0 : 1;

  const ArchiveTensor& decay = tensors.at("layers.0.decay.log_magnitude");
  const ArchiveTensor& phase = tensors.at("layers.0.decay.phase");
  EXPECT_EQ(decay.type, ElementType::kFloat64);
  EXPECT_EQ(decay.shape, (std::vector<int64_t>{7, 6 - first, 2, 3}));
  EXPECT_EQ(phase.shape, decay.shape);
  const ArchiveTensor& attention = tensors.at("layers.1.attention.log_magnitude");
  EXPECT_EQ(attention.type, ElementType::kFloat32);
  EXPECT_EQ(attention.shape, (std::vector<int64_t>{7, 5, 1, 1}));
  const ArchiveTensor& fixed = tensors.at("layers.2.fixed.log_magnitude");
  EXPECT_EQ(fixed.shape, (std::vector<int64_t>{5, 1}));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(ElementAsDouble(fixed, i), -0.5);
  EXPECT_EQ(result.exported_bytes, 7 * 8 + 5 * 4 + 7 * 5 * 4 + 2 * 7 * (6 - first) * 6 * 8 + (2 * 7 + 1) * 8);

  // Of the rows that ran together, whatever their chunks of time: not of the first example.
  const ArchiveTensor& constant_floor = tensors.at("layers.2.fixed.noise_floor");
  ASSERT_EQ(constant_floor.shape, std::vector<int64_t>{});
  EXPECT_EQ(ElementAsDouble(constant_floor, 0), 1e-7);
  for (const int64_t layer : {0, 1}) {
    const ArchiveTensor& floors =
        tensors.at(layer == 0 ? "layers.0.decay.noise_floor" : "layers.1.attention.noise_floor");
    ASSERT_EQ(floors.shape, std::vector<int64_t>{7});
    for (int64_t row = 0; batch_size > 0 && row < 7; ++row) {
      int64_t largest = 0;
      for (int64_t other = row / batch_size * batch_size;
           other < std::min<int64_t>(7, (row / batch_size + 1) * batch_size); ++other) {
        for (int64_t step = layer; step < task_.Length(other); ++step) {
          largest = std::max<int64_t>(largest, task_.Token(other, step));
        }
      }
      EXPECT_DOUBLE_EQ(ElementAsDouble(floors, row), kNoisePerToken * static_cast<double>(largest));
    }
  }

  int64_t finite = 0;
  for (int64_t row = 0; row < 7; ++row) {
    EXPECT_EQ(ElementAsDouble(tensors.at("lengths"), row), task_.Length(row));
    for (int64_t step = first; step < 6; ++step) {
      const bool inside = step < task_.Length(row);
      const double value = (11.5 - task_.Token(row, step)) / 16;
      for (int64_t i = 0; i < 6; ++i) {
        const int64_t at = (row * (6 - first) + step - first) * 6 + i;
        if (inside) {
          EXPECT_DOUBLE_EQ(ElementAsDouble(decay, at), std::log(std::abs(value)));
          EXPECT_DOUBLE_EQ(ElementAsDouble(phase, at), value < 0 ? std::numbers::pi : 0);
          ++finite;
        } else {
          EXPECT_TRUE(std::isnan(ElementAsDouble(decay, at)));
          EXPECT_TRUE(std::isnan(ElementAsDouble(phase, at)));
        }
      }
      if (step == 0) continue;
      const double ratio = ElementAsDouble(attention, row * 5 + step - 1);
      if (inside) {
        EXPECT_EQ(ratio, -0.125 * task_.Token(row, step));
        ++finite;
      } else {
        EXPECT_TRUE(std::isnan(ratio));
      }
    }
  }
  EXPECT_EQ(result.eigenvalues, finite + 5);

  EIGSVC_ASSERT_OK_AND_ASSIGN(const std::string sites, archive.settings().Text("sites"));
  const nlohmann::json described = nlohmann::json::parse(sites);
  EXPECT_EQ(described["layers.0.decay"]["first_step"], first);
  EXPECT_EQ(described["layers.0.decay"]["multiplicity"], 4);
  EXPECT_EQ(described["layers.1.attention"]["first_step"], 1);
  EXPECT_EQ(described["layers.1.attention"]["multiplicity"], 0);
  EXPECT_EQ(described["layers.2.fixed"]["constant"], true);
  EXPECT_EQ(archive.settings().TextOr("checkpoint_sha256", "").value(), "abc");
  EXPECT_EQ(archive.settings().TextOr("definition", "").value(), "EXACT");
  EXPECT_EQ(archive.settings().TextOr("gauge", "").value(), "raw");
}

INSTANTIATE_TEST_SUITE_P(Batches, ExportBatchesTest,
                         ::testing::Combine(::testing::Values(0, 1, 3, 7), ::testing::Bool(),
                                            ::testing::Values(1, 4, 6)));

// Rows as wide as they are long, so that most batches end before the longest of the analysis does; one of a
// single step has no transition of attention at all.
TEST_F(ExportTest, RowsShorterThanTheLongestEndInNan) {
  class Ragged final : public Task {
   public:
    absl::string_view name() const override { return "ragged"; }
    const Settings& parameters() const override { return parameters_; }
    const TaskSignature& signature() const override { return signature_; }
    int64_t example_count(Split) const override { return 3; }
    absl::StatusOr<Batch> Draw(Split, int64_t first, int64_t count) const override {
      static constexpr int64_t kLengths[3] = {1, 4, 2};
      Batch batch;
      batch.rows = count;
      for (int64_t row = first; row < first + count; ++row) batch.lengths.push_back(kLengths[row]);
      batch.steps = *std::max_element(batch.lengths.begin(), batch.lengths.end());
      batch.tokens.assign(batch.rows * batch.steps, 3);
      batch.targets.assign(batch.rows * batch.steps, kIgnoredTarget);
      return batch;
    }
    Score ComputeScore(Split, absl::Span<const Prediction>) const override { return {}; }

   private:
    const Settings parameters_;
    const TaskSignature signature_{.vocab_size = kVocab, .classes = kVocab};
  };
  AnalysisOptions options;
  options.batch_size = 1;
  options.export_path = ::testing::TempDir() + "export_ragged.safetensors";
  EIGSVC_ASSERT_OK(RunAnalysis(model_, Ragged(), options, nullptr, StopToken()));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(options.export_path));
  const ArchiveTensor& attention = archive.tensors().at("layers.1.attention.log_magnitude");
  ASSERT_EQ(attention.shape, (std::vector<int64_t>{3, 3, 1, 1}));
  const std::vector<int> inside = {0, 0, 0, 1, 1, 1, 1, 0, 0};
  for (size_t i = 0; i < inside.size(); ++i) {
    const double value = ElementAsDouble(attention, static_cast<int64_t>(i));
    EXPECT_TRUE(inside[i] ? value == -0.375 : std::isnan(value)) << i << ": " << value;
  }
}

// S4 brings its condition numbers; DeltaNet a multiplicity for each entry.
TEST_F(ExportTest, ConditionNumbersAndMultiplicitiesAreWritten) {
  const FakeModel model(2, kVocab, [](int layer, const at::Tensor& x, const LayerContext& context) {
    if (!context.tap->Wants(layer, layer == 0 ? "s4" : "delta")) return absl::OkStatus();
    DiagonalPlusLowRank kind;
    if (layer == 0) {
      kind.d = at::tensor({-0.5, -0.75, -0.25}, at::kDouble).view({1, 1, 1, 3});
      kind.u = kind.v = at::full({1, 1, 1, 3, 1}, 0.125, at::kDouble);
      kind.step = at::tensor({0.5, 0.25}, at::kDouble);
      kind.discretization = Discretization::kExp;
      return context.tap->OnTransition(layer, "s4", UnitKind::kChannel, {kind, true, 0, 0});
    }
    kind.d = at::full({x.size(0), x.size(1), 1, 1}, 1.0);
    kind.u = kind.v = at::full({x.size(0), x.size(1), 1, 4, 1}, 0.25);
    return context.tap->OnTransition(layer, "delta", UnitKind::kHead, {kind, false, 0, 0});
  });
  AnalysisOptions options;
  options.export_path = ::testing::TempDir() + "export_condition.safetensors";
  EIGSVC_ASSERT_OK(RunAnalysis(model, task_, options, nullptr, StopToken()));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(options.export_path));
  const auto& tensors = archive.tensors();
  const ArchiveTensor& condition = tensors.at("layers.0.s4.condition");
  EXPECT_EQ(condition.shape, (std::vector<int64_t>{2, 3}));
  const ArchiveTensor& error = tensors.at("layers.0.s4.log_magnitude_error");
  const ArchiveTensor& log = tensors.at("layers.0.s4.log_magnitude");
  for (int i = 0; i < 3; ++i) {
    EXPECT_NEAR(ElementAsDouble(condition, i), 1, 1e-9);  // symmetric
    EXPECT_EQ(ElementAsDouble(condition, i), ElementAsDouble(condition, 3 + i));
    EXPECT_NEAR(ElementAsDouble(log, i), 2 * ElementAsDouble(log, 3 + i), 1e-15);
    EXPECT_NEAR(ElementAsDouble(error, i), 2 * ElementAsDouble(error, 3 + i), 1e-20);
    EXPECT_GT(ElementAsDouble(error, i), 1e-17);
    EXPECT_LT(ElementAsDouble(error, i), 1e-15);
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const std::string sites, archive.settings().Text("sites"));
  const nlohmann::json described = nlohmann::json::parse(sites);
  EXPECT_EQ(described["layers.0.s4"]["multiplicity"], 1);
  EXPECT_EQ(described["layers.1.delta"]["multiplicity"], (std::vector<int64_t>{3, 1}));
}

TEST_F(ExportTest, TooLargeAnExportIsRefusedBeforeAnythingIsWritten) {
  AnalysisOptions options;
  options.export_path = ::testing::TempDir() + "export_too_large.safetensors";
  options.max_export_bytes = 100;
  EXPECT_THAT(RunAnalysis(model_, task_, options, nullptr, StopToken()),
              StatusIs(StatusCode::kResourceExhausted, HasSubstr("at most 100")));
  EXPECT_FALSE(std::filesystem::exists(options.export_path));
}

TEST_F(ExportTest, ACancelledExportLeavesNoFile) {
  AnalysisOptions options;
  options.export_path = ::testing::TempDir() + "export_cancelled.safetensors";
  options.batch_size = 1;
  options.progress_interval = absl::ZeroDuration();
  StopToken stop;
  const auto cancel = [&](const AnalysisProgress&) { stop.Cancel(); };
  EXPECT_THAT(RunAnalysis(model_, task_, options, cancel, stop),
              StatusIs(StatusCode::kCancelled, HasSubstr("cancelled")));
  EXPECT_FALSE(std::filesystem::exists(options.export_path));
}

TEST_F(ExportTest, AFolderThatDoesNotExistIsNamed) {
  AnalysisOptions options;
  options.export_path = "/no/such/folder/export.safetensors";
  const auto result = RunAnalysis(model_, task_, options, nullptr, StopToken());
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("/no/such/folder"));
}

}  // namespace
}  // namespace eigsvc
