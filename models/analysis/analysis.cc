// The loop over batches and layers. Start at Engine::Run.
#include "models/analysis/analysis.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "c10/core/GradMode.h"
#include "models/analysis/batch_sizer.h"
#include "models/analysis/eigenvalue_export.h"
#include "models/analysis/labelled.h"
#include "models/analysis/spectrum_tap.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/tasks/prefetch.h"
#include "models/tensor/device.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {
namespace {

constexpr int64_t kDefaultExamples = 4096;
constexpr int64_t kScanRows = 256;  // drawn at once to learn the longest sequence

// Cuts every sequence to its first `steps` steps. What is asked once a sequence stays.
void Truncate(Batch& batch, int64_t steps) {
  if (batch.steps <= steps) return;
  const auto cut = [&](auto& values, int64_t width) {
    if (values.empty()) return;
    const int64_t held = batch.steps * width, kept = steps * width;
    for (int64_t row = 0; row < batch.rows; ++row) {
      std::copy_n(values.begin() + row * held, kept, values.begin() + row * kept);
    }
    values.resize(batch.rows * kept);
  };
  if (batch.target_steps() == batch.steps) cut(batch.targets, 1);
  cut(batch.tokens, 1);
  cut(batch.values, batch.channels);
  batch.steps = steps;
  for (int64_t& length : batch.lengths) length = std::min(length, steps);
}

// Looks at the stop token and remembers the longest time between two looks.
class PieceTimer {
 public:
  explicit PieceTimer(const StopToken& stop) : stop_(stop), last_(absl::Now()) {}
  absl::Status Check() {
    const absl::Time now = absl::Now();
    longest_ = std::max(longest_, now - last_);
    last_ = now;
    return stop_.Check();
  }
  absl::Duration longest() const { return longest_; }

 private:
  const StopToken& stop_;
  absl::Time last_;
  absl::Duration longest_;
};

class Engine {
 public:
  Engine(const SequenceModel& model, const ModelWeights& weights, const Task& task,
         const AnalysisOptions& options, const std::function<void(const AnalysisProgress&)>& progress,
         const StopToken& stop)
      : model_(model),
        weights_(weights),
        task_(task),
        options_(options),
        progress_(progress),
        stop_(stop),
        device_(weights.Distinct().front().device()),
        sizer_(options.batch_size),
        batches_(task, options.split) {}

  absl::StatusOr<AnalysisResult> Run() {
    const c10::NoGradGuard no_grad;
    EIGSVC_RETURN_IF_ERROR(ResolveExamples());
    EIGSVC_ASSIGN_OR_RETURN(result_.convention,
                            ResolveConvention(options_.convention, model_.description().conventions,
                                              model_.description().family));
    if (!options_.export_path.empty()) EIGSVC_RETURN_IF_ERROR(OpenExport());
    tap_ = std::make_unique<SpectrumTap>(options_, device_, stop_, export_.get());
    for (int64_t first = 0; first < examples_;) {
      const int64_t rows = std::min(sizer_.rows(), examples_ - first);
      if (first + rows < examples_) batches_.Expect({first + rows, std::min(rows, examples_ - first - rows)});
      EIGSVC_RETURN_IF_ERROR(RunRows(first, rows, {}));
      first += rows;
    }
    return Finish();
  }

 private:
  absl::Status ResolveExamples() {
    const int64_t available = task_.example_count(options_.split);
    const auto invalid = [](auto... parts) { return absl::InvalidArgumentError(absl::StrCat(parts...)); };
    if (available == 0) {
      return absl::FailedPreconditionError(absl::StrCat("task ", task_.name(), " has no examples in the ",
                                                        SplitName(options_.split), " split"));
    }
    if (options_.examples < 0 || options_.examples > available) {
      return invalid(options_.examples, " examples were asked for; the ", SplitName(options_.split),
                     " split of task ", task_.name(), " has ", available,
                     " (0: as many as there are, at most ", kDefaultExamples, ")");
    }
    if (options_.batch_size < 0 || options_.batch_size > kMaxDraw) {
      return invalid("batch_size is ", options_.batch_size, "; it must lie in [0, ", kMaxDraw,
                     "] (0: chosen)");
    }
    if (options_.max_steps < 0)
      return invalid("max_steps is ", options_.max_steps, "; it must be 0 (no cut) or more");
    examples_ = options_.examples > 0 ? options_.examples : std::min(available, kDefaultExamples);
    return absl::OkStatus();
  }

  absl::StatusOr<Batch> DrawRows(int64_t first, int64_t count) {
    EIGSVC_ASSIGN_OR_RETURN(Batch batch, batches_.Take({first, count}));
    if (options_.max_steps > 0) Truncate(batch, options_.max_steps);
    return batch;
  }
  // For what is counted, not for what is asked: an answer stands at a real step.
  void CountPadding(Batch& batch) const {
    if (result_.convention.departures.count_padding) batch.lengths.assign(batch.rows, batch.steps);
  }

  // Embedding and layers; the last hidden state.
  absl::StatusOr<at::Tensor> RunLayers(const Batch& batch, int64_t first, TransitionTap* tap,
                                       PieceTimer& timer) const {
    EIGSVC_RETURN_IF_ERROR(CheckBatch(task_, batch, options_.split, first, model_.description().vocab_size));
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor tokens,
                            CallTorch("tokens", [&] { return TokenTensor(batch, device_); }));
    EIGSVC_ASSIGN_OR_RETURN(at::Tensor x, model_.Embed(weights_, tokens, /*first_position=*/0));
    const LayerContext context{tap, &stop_, result_.convention};
    for (size_t layer = 0; layer < weights_.layers.size(); ++layer) {
      EIGSVC_RETURN_IF_ERROR(timer.Check());
      EIGSVC_ASSIGN_OR_RETURN(
          x, model_.Layer(static_cast<int>(layer), weights_.layers[layer], x, /*state=*/nullptr, context));
    }
    EIGSVC_RETURN_IF_ERROR(timer.Check());
    return x;
  }

  // `counted`: steps of these rows that an earlier, larger attempt already counted.
  absl::Status RunRows(int64_t first, int64_t rows, CountedSteps counted) {
    const absl::Status status = TryRows(first, rows, counted);
    if (status.code() != absl::StatusCode::kResourceExhausted) return status;
    if (rows == 1) {
      return Annotate(
          status,
          "one sequence at a time does not fit; cut it (--max-steps), or use another dtype or device");
    }
    sizer_.RanOutOfMemory(rows);
    EIGSVC_RETURN_IF_ERROR(RunRows(first, rows / 2, counted));
    return RunRows(first + rows / 2, rows - rows / 2, counted);
  }

  absl::Status TryRows(int64_t first, int64_t rows, CountedSteps& counted) {
    PieceTimer timer(stop_);
    EIGSVC_RETURN_IF_ERROR(stop_.Check());
    EIGSVC_ASSIGN_OR_RETURN(Batch batch, DrawRows(first, rows));
    std::vector<int64_t> real_lengths = batch.lengths;
    CountPadding(batch);
    const absl::Time start = absl::Now();
    const absl::Duration tap_before = tap_->time();
    tap_->BeginRows(first, &batch, &counted);
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor x, RunLayers(batch, first, tap_.get(), timer));
    EIGSVC_RETURN_IF_ERROR(tap_->EndRows());
    batch.lengths.swap(real_lengths);
    EIGSVC_ASSIGN_OR_RETURN(std::vector<Prediction> predictions,
                            Predict(model_, weights_, batch, first, x, stop_));
    batch.lengths.swap(real_lengths);
    EIGSVC_RETURN_IF_ERROR(timer.Check());
    if (export_ != nullptr) EIGSVC_RETURN_IF_ERROR(export_->EndRows(first, batch));

    predictions_.insert(predictions_.end(), predictions.begin(), predictions.end());
    result_.forward_time += absl::Now() - start - (tap_->time() - tap_before);
    result_.examples += rows;
    result_.batches += 1;
    for (int64_t length : batch.lengths) result_.tokens += length;
    result_.batch_size = std::max(result_.batch_size, rows);
    sizer_.Succeeded(rows, batch.steps, timer.longest());
    Report();
    return absl::OkStatus();
  }

  // A report costs a score over everything so far, so it takes at most a tenth of the time.
  void Report() {
    const absl::Time start = absl::Now();
    if (progress_ == nullptr || start < next_report_) return;
    AnalysisProgress report;
    report.examples_done = result_.examples;
    report.examples_total = examples_;
    report.eigenvalues = tap_->eigenvalues();
    report.convention = result_.convention;
    report.score = task_.ComputeScore(options_.split, predictions_);
    report.sites = &tap_->sites();
    progress_(report);
    const absl::Time end = absl::Now();
    next_report_ = end + std::max(options_.progress_interval, 10 * (end - start));
  }

  // Learns the longest sequence and the shapes of the transitions before the first real batch.
  absl::Status OpenExport() {
    EigenvalueExport::Plan plan;
    int64_t longest = 0, longest_length = 0;  // an example of one step has no transition of attention to show
    for (int64_t first = 0; first < examples_; first += kScanRows) {
      EIGSVC_RETURN_IF_ERROR(stop_.Check());
      EIGSVC_ASSIGN_OR_RETURN(Batch batch, DrawRows(first, std::min(kScanRows, examples_ - first)));
      CountPadding(batch);
      plan.steps = std::max(plan.steps, batch.steps);
      for (int64_t row = 0; row < batch.rows; ++row) {
        if (batch.lengths[row] <= longest_length) continue;
        longest = first + row;
        longest_length = batch.lengths[row];
      }
    }
    EIGSVC_ASSIGN_OR_RETURN(Batch batch, DrawRows(longest, 1));
    CountPadding(batch);
    ExportProbe probe;
    PieceTimer timer(stop_);
    EIGSVC_RETURN_IF_ERROR(RunLayers(batch, longest, &probe, timer).status());
    const ModelDescription& description = model_.description();
    plan.path = options_.export_path;
    plan.max_bytes = options_.max_export_bytes;
    plan.rows = examples_;
    plan.include_first_step = options_.include_first_step;
    plan.entries = probe.entries();
    plan.metadata = options_.export_metadata;
    plan.metadata["definition"] = std::string(DefinitionName(result_.convention.departures));
    plan.metadata["departures"] = absl::StrJoin(DepartureNames(result_.convention.departures), ",");
    plan.metadata["gauge"] = std::string(GaugeName(result_.convention.gauge));
    plan.metadata["rotation"] = std::string(RotationName(result_.convention.rotation));
    plan.metadata["family"] = description.family;
    plan.metadata["layout"] = description.layout;
    plan.metadata["dtype"] = DtypeName(model_.dtype());
    plan.metadata["task"] = std::string(task_.name());
    plan.metadata["task_parameters"] = task_.parameters().ToJson();
    plan.metadata["split"] = std::string(SplitName(options_.split));
    plan.metadata["first_example"] = absl::StrCat(0);
    EIGSVC_ASSIGN_OR_RETURN(export_, EigenvalueExport::Create(std::move(plan)));
    return absl::OkStatus();
  }

  absl::StatusOr<AnalysisResult> Finish() {
    if (export_ != nullptr) {
      EIGSVC_RETURN_IF_ERROR(export_->Finish());
      result_.exported_bytes = export_->bytes();
    }
    result_.score = task_.ComputeScore(options_.split, predictions_);
    result_.sites = tap_->sites();
    result_.eigenvalues = tap_->eigenvalues();
    result_.analysis_time = tap_->time();
    result_.total_time = absl::Now() - start_;
    return std::move(result_);
  }

  const SequenceModel& model_;
  const ModelWeights& weights_;
  const Task& task_;
  const AnalysisOptions& options_;
  const std::function<void(const AnalysisProgress&)>& progress_;
  const StopToken& stop_;
  const c10::Device device_;
  const absl::Time start_ = absl::Now();
  absl::Time next_report_ = start_ + options_.progress_interval;
  int64_t examples_ = 0;
  BatchSizer sizer_;
  Prefetch batches_;
  std::unique_ptr<EigenvalueExport> export_;  // outlives tap_
  std::unique_ptr<SpectrumTap> tap_;
  std::vector<Prediction> predictions_;
  AnalysisResult result_;
};

}  // namespace

absl::StatusOr<AnalysisResult> RunAnalysis(const SequenceModel& model, const Task& task,
                                           const AnalysisOptions& options,
                                           const std::function<void(const AnalysisProgress&)>& progress,
                                           const StopToken& stop) {
  return RunAnalysis(model, model.weights(), task, options, progress, stop);
}

absl::StatusOr<AnalysisResult> RunAnalysis(const SequenceModel& model, const ModelWeights& weights,
                                           const Task& task, const AnalysisOptions& options,
                                           const std::function<void(const AnalysisProgress&)>& progress,
                                           const StopToken& stop) {
  return Engine(model, weights, task, options, progress, stop).Run();
}

}  // namespace eigsvc
