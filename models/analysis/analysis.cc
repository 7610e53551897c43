// The loop over batches and layers. Start at Engine::Run.
#include "models/analysis/analysis.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "c10/core/GradMode.h"
#include "models/analysis/batch_sizer.h"
#include "models/analysis/eigenvalue_export.h"
#include "models/analysis/labelled.h"
#include "models/analysis/layer_stream.h"
#include "models/analysis/spectrum_tap.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/tasks/prefetch.h"
#include "models/tensor/device.h"
#include "models/tensor/device_queue.h"
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

// Examples that go through the layers together.
struct Piece {
  int64_t first = 0;  // of the analysis
  Batch batch;        // with the lengths that are counted
  std::vector<int64_t> real_lengths;
  at::Tensor x;          // [rows, steps, width], as far as the layers have come
  CountedSteps counted;  // by the tap
  absl::Duration longest;
};

// Rows [begin, begin + count) of a piece.
Piece Slice(const Piece& piece, int64_t begin, int64_t count) {
  const Batch& whole = piece.batch;
  const auto rows = [&](const auto& values) {
    const int64_t width = static_cast<int64_t>(values.size()) / whole.rows;
    return std::decay_t<decltype(values)>(values.begin() + begin * width,
                                          values.begin() + (begin + count) * width);
  };
  Piece slice;
  slice.first = piece.first + begin;
  slice.batch.rows = count;
  slice.batch.steps = whole.steps;
  slice.batch.channels = whole.channels;
  slice.batch.tokens = rows(whole.tokens);
  slice.batch.values = rows(whole.values);
  slice.batch.targets = rows(whole.targets);
  slice.batch.lengths = rows(whole.lengths);
  slice.real_lengths = rows(piece.real_lengths);
  if (piece.x.defined()) slice.x = piece.x.narrow(0, begin, count);
  slice.counted = piece.counted;
  return slice;
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
    EIGSVC_ASSIGN_OR_RETURN(examples_, ExamplesOf(task_, options_));
    EIGSVC_ASSIGN_OR_RETURN(result_.convention,
                            ResolveConvention(options_.convention, model_.description().conventions,
                                              model_.description().family));
    if (!options_.export_path.empty()) EIGSVC_RETURN_IF_ERROR(OpenExport());
    tap_ = std::make_unique<SpectrumTap>(options_, device_, stop_, export_.get());
    end_ = options_.first_example + examples_;
    for (int64_t first = options_.first_example; first < end_;) {
      EIGSVC_ASSIGN_OR_RETURN(first, RunFrom(first));
    }
    return Finish();
  }

 private:
  absl::StatusOr<Batch> DrawRows(int64_t first, int64_t count) {
    EIGSVC_ASSIGN_OR_RETURN(Batch batch, batches_.Take({first, count}));
    if (options_.max_steps > 0) Truncate(batch, options_.max_steps);
    return batch;
  }
  // For what is counted, not for what is asked: an answer stands at a real step.
  void CountPadding(Batch& batch) const {
    if (result_.convention.departures.count_padding) batch.lengths.assign(batch.rows, batch.steps);
  }

  // Takes examples from `first` on through the model; the first one that is left. Where layers are streamed,
  // as many examples as options_.held_bytes has room for share each of them.
  absl::StatusOr<int64_t> RunFrom(int64_t first) {
    const absl::Time start = absl::Now();
    const absl::Duration tap_before = tap_->time();
    const bool streamed = weights_.streamed();
    std::vector<Piece> pieces;
    LayerStream layers(weights_, stop_);
    EIGSVC_ASSIGN_OR_RETURN(Weights weights, layers.Next());
    int64_t held = 0;
    do {  // the first layer as the examples are drawn: it tells how many to take at once
      std::vector<Piece> drawn(1);
      drawn[0].first = first;
      const int64_t rows = std::min(sizer_.rows(), end_ - first), left = end_ - first - rows;
      if (left > 0) batches_.Expect({first + rows, std::min(rows, left)});
      EIGSVC_ASSIGN_OR_RETURN(drawn[0].batch, DrawRows(first, rows));
      drawn[0].real_lengths = drawn[0].batch.lengths;
      CountPadding(drawn[0].batch);
      first += rows;
      EIGSVC_RETURN_IF_ERROR(ForEach(drawn, [&](Piece& piece) { return Begin(piece); }));
      EIGSVC_RETURN_IF_ERROR(
          ForEach(drawn, [&](Piece& piece) { return RunLayer(0, weights, *tap_, piece); }));
      for (Piece& piece : drawn) {
        if (streamed) sizer_.Succeeded(piece.batch.rows, piece.batch.steps, piece.longest);
        held += static_cast<int64_t>(piece.x.nbytes());
        pieces.push_back(std::move(piece));
      }
    } while (streamed && first < end_ && held < options_.held_bytes);
    for (int layer = 1; layer < static_cast<int>(weights_.layers.size()); ++layer) {
      EIGSVC_ASSIGN_OR_RETURN(weights, layers.Next());
      EIGSVC_RETURN_IF_ERROR(
          ForEach(pieces, [&](Piece& piece) { return RunLayer(layer, weights, *tap_, piece); }));
    }
    EIGSVC_RETURN_IF_ERROR(ForEach(pieces, [&](Piece& piece) { return End(piece); }));
    result_.forward_time += absl::Now() - start - (tap_->time() - tap_before);
    for (const Piece& piece : pieces) {
      if (!streamed) sizer_.Succeeded(piece.batch.rows, piece.batch.steps, piece.longest);
    }
    return first;
  }

  // A piece that does not fit in memory is halved. A stage leaves a piece as it was when it fails.
  absl::Status ForEach(std::vector<Piece>& pieces, absl::FunctionRef<absl::Status(Piece&)> stage) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      absl::Status status = stage(pieces[i]);
      while (absl::IsResourceExhausted(status)) {
        const int64_t rows = pieces[i].batch.rows;
        if (rows == 1) {
          return Annotate(status,
                          "one sequence at a time does not fit; cut it (--max-steps), or use another dtype "
                          "or device");
        }
        sizer_.RanOutOfMemory(rows);
        result_.halved_to = result_.halvings == 0 ? rows / 2 : std::min(result_.halved_to, rows / 2);
        ++result_.halvings;
        Piece rest = Slice(pieces[i], rows / 2, rows - rows / 2);
        pieces[i] = Slice(pieces[i], 0, rows / 2);
        pieces.insert(pieces.begin() + static_cast<int64_t>(i) + 1, std::move(rest));
        status = stage(pieces[i]);
      }
      EIGSVC_RETURN_IF_ERROR(status);
    }
    return absl::OkStatus();
  }

  absl::Status Begin(Piece& piece) const {
    PieceTimer timer(stop_);
    EIGSVC_RETURN_IF_ERROR(stop_.Check());
    EIGSVC_RETURN_IF_ERROR(CheckBatch(task_, piece.batch, options_.split, piece.first, model_.description()));
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor inputs,
                            CallTorch("inputs", [&] { return InputTensor(piece.batch, device_); }));
    EIGSVC_ASSIGN_OR_RETURN(piece.x, model_.Embed(weights_, inputs, /*first_position=*/0));
    return Passed(timer, piece);
  }

  absl::Status RunLayer(int layer, const Weights& weights, SpectrumTap& tap, Piece& piece) {
    tap.BeginRows(piece.first, &piece.batch, &piece.counted);
    return RunLayer(layer, weights, static_cast<TransitionTap&>(tap), piece);
  }

  absl::Status RunLayer(int layer, const Weights& weights, TransitionTap& tap, Piece& piece) {
    PieceTimer timer(stop_);
    const LayerContext context{&tap, &stop_, result_.convention};
    EIGSVC_ASSIGN_OR_RETURN(piece.x, model_.Layer(layer, weights, piece.x, /*state=*/nullptr, context));
    EIGSVC_RETURN_IF_ERROR(queue_.PieceQueued());
    return Passed(timer, piece);
  }

  static absl::Status Passed(PieceTimer& timer, Piece& piece) {
    EIGSVC_RETURN_IF_ERROR(timer.Check());
    piece.longest = std::max(piece.longest, timer.longest());
    return absl::OkStatus();
  }

  absl::Status End(Piece& piece) {
    PieceTimer timer(stop_);
    tap_->BeginRows(piece.first, &piece.batch, &piece.counted);
    EIGSVC_RETURN_IF_ERROR(tap_->EndRows());
    piece.batch.lengths.swap(piece.real_lengths);  // an answer stands at a real step
    const absl::StatusOr<std::vector<Prediction>> predictions =
        Predict(model_, weights_, piece.batch, piece.first, piece.x, stop_);
    piece.batch.lengths.swap(piece.real_lengths);
    EIGSVC_RETURN_IF_ERROR(predictions.status());
    if (export_ != nullptr) EIGSVC_RETURN_IF_ERROR(export_->EndRows(piece.first, piece.batch));
    predictions_.insert(predictions_.end(), predictions->begin(), predictions->end());
    result_.examples += piece.batch.rows;
    result_.batches += 1;
    for (int64_t length : piece.batch.lengths) {
      result_.tokens += length;
      longest_ = std::max(longest_, length);
    }
    result_.batch_size = std::max(result_.batch_size, piece.batch.rows);
    EIGSVC_RETURN_IF_ERROR(Passed(timer, piece));
    return Report();
  }

  // A report costs a score over everything so far, so it takes at most a tenth of the time.
  absl::Status Report() {
    const absl::Time start = absl::Now();
    if (progress_ == nullptr || start < next_report_) return absl::OkStatus();
    EIGSVC_RETURN_IF_ERROR(tap_->Collect());
    AnalysisProgress report;
    report.examples_done = result_.examples;
    report.examples_total = examples_;
    report.eigenvalues = tap_->eigenvalues();
    report.convention = result_.convention;
    report.score = task_.ComputeScore(options_.split, predictions_);
    report.sites = &tap_->sites();
    report.predictions = &predictions_;
    progress_(report);
    const absl::Time end = absl::Now();
    next_report_ = end + std::max(options_.progress_interval, 10 * (end - start));
    return absl::OkStatus();
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
    Piece piece;
    piece.first = longest;
    EIGSVC_ASSIGN_OR_RETURN(piece.batch, DrawRows(longest, 1));
    CountPadding(piece.batch);
    ExportProbe probe(options_.window);
    EIGSVC_RETURN_IF_ERROR(Begin(piece));
    LayerStream layers(weights_, stop_);
    for (int layer = 0; layer < static_cast<int>(weights_.layers.size()); ++layer) {
      EIGSVC_ASSIGN_OR_RETURN(const Weights weights, layers.Next());
      EIGSVC_RETURN_IF_ERROR(RunLayer(layer, weights, probe, piece));
    }
    const ModelDescription& description = model_.description();
    plan.path = options_.export_path;
    plan.max_bytes = options_.max_export_bytes;
    plan.rows = examples_;
    plan.include_first_step = options_.include_first_step;
    plan.window = options_.window;
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
    plan.metadata["window_length"] = absl::StrCat(options_.window.length);
    plan.metadata["window_stride"] = absl::StrCat(options_.window.stride);
    EIGSVC_ASSIGN_OR_RETURN(export_, EigenvalueExport::Create(std::move(plan)));
    return absl::OkStatus();
  }

  absl::StatusOr<AnalysisResult> Finish() {
    if (export_ != nullptr) {
      EIGSVC_RETURN_IF_ERROR(export_->Finish());
      result_.exported_bytes = export_->bytes();
    }
    EIGSVC_RETURN_IF_ERROR(tap_->Collect());
    if (!options_.window.IsStep() && tap_->MissesSteps()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "no sequence has a window of ", options_.window.length, " steps that count; the longest has ",
          longest_, " steps", options_.include_first_step ? "" : ", the first of which does not",
          "; shorten the window (--window)"));
    }
    result_.score = task_.ComputeScore(options_.split, predictions_);
    result_.window = options_.window;
    result_.sites = tap_->TakeSites();
    result_.predictions = std::move(predictions_);
    result_.eigenvalues = tap_->eigenvalues();
    result_.redone = tap_->redone();
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
  int64_t examples_ = 0, end_ = 0;  // end_: of the split, exclusive
  int64_t longest_ = 0;
  BatchSizer sizer_;
  DeviceQueue queue_{device_};
  Prefetch batches_;
  std::unique_ptr<EigenvalueExport> export_;  // outlives tap_
  std::unique_ptr<SpectrumTap> tap_;
  std::vector<Prediction> predictions_;
  AnalysisResult result_;
};

}  // namespace

absl::StatusOr<int64_t> ExamplesOf(const Task& task, const AnalysisOptions& options) {
  const int64_t available = task.example_count(options.split) - options.first_example;
  const auto invalid = [](auto... parts) { return absl::InvalidArgumentError(absl::StrCat(parts...)); };
  if (available <= 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("task ", task.name(), " has no examples in the ", SplitName(options.split), " split"));
  }
  if (options.examples < 0 || options.examples > available) {
    return invalid(options.examples, " examples were asked for; the ", SplitName(options.split),
                   " split of task ", task.name(), " has ", available, " (0: as many as there are, at most ",
                   kDefaultExamples, ")");
  }
  if (options.batch_size < 0 || options.batch_size > kMaxDraw) {
    return invalid("batch_size is ", options.batch_size, "; it must lie in [0, ", kMaxDraw, "] (0: chosen)");
  }
  if (options.max_steps < 0)
    return invalid("max_steps is ", options.max_steps, "; it must be 0 (no cut) or more");
  if (options.first_example < 0 || (options.first_example > 0 && !options.export_path.empty()))
    return invalid("first_example is ", options.first_example,
                   "; it must be 0 or more, and 0 where eigenvalues are exported");
  return options.examples > 0 ? options.examples : std::min(available, kDefaultExamples);
}

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
