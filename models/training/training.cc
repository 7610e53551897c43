// The training loop. Start at Trainer::Run.
#include "models/training/training.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <utility>

#include "ATen/ops/stack.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "c10/core/GradMode.h"
#include "models/analysis/labelled.h"
#include "models/base/job_limits.h"
#include "models/base/random.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/tasks/prefetch.h"
#include "models/tensor/generator.h"
#include "models/tensor/host_copy.h"
#include "models/tensor/torch_call.h"
#include "models/training/batch_order.h"
#include "models/training/checkpoint.h"
#include "models/training/loss.h"
#include "models/training/optimizer.h"

namespace eigsvc {
namespace {

constexpr absl::Duration kReportInterval = absl::Milliseconds(250);
constexpr absl::Duration kLongStep = absl::Milliseconds(20);  // to wait for; a pause takes some 50 us

bool LowerIsBetter(const Score& score) { return score.metric == "perplexity"; }

absl::Status CheckOptions(const TrainingOptions& o) {
  const auto check = [](absl::string_view name, double value, double low, double high) {
    if (value >= low && value <= high) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("training: ", name, " is ", value, "; it must lie in [", low, ", ", high, "]"));
  };
  EIGSVC_RETURN_IF_ERROR(check("steps", static_cast<double>(o.steps), 1, 1e9));
  EIGSVC_RETURN_IF_ERROR(check("batch_size", static_cast<double>(o.batch_size), 1, kMaxDraw));
  EIGSVC_RETURN_IF_ERROR(check("learning_rate", o.learning_rate, kMinLearningRate, 100));
  EIGSVC_RETURN_IF_ERROR(check("final_learning_rate", o.final_learning_rate, 0, o.learning_rate));
  EIGSVC_RETURN_IF_ERROR(
      check("warmup_steps", static_cast<double>(o.warmup_steps), 0, static_cast<double>(o.steps)));
  EIGSVC_RETURN_IF_ERROR(check("weight_decay", o.weight_decay, 0, 100));
  if (o.recurrence_learning_rate != 0) {
    EIGSVC_RETURN_IF_ERROR(
        check("recurrence_learning_rate", o.recurrence_learning_rate, kMinLearningRate, 100));
  }
  EIGSVC_RETURN_IF_ERROR(check("beta1", o.beta1, 0, 1 - 1e-12));
  EIGSVC_RETURN_IF_ERROR(check("beta2", o.beta2, 0, kMaxBeta2));
  EIGSVC_RETURN_IF_ERROR(check("epsilon", o.epsilon, 1e-30, 1));
  EIGSVC_RETURN_IF_ERROR(check("gradient_clip", o.gradient_clip, 0, 1e30));
  EIGSVC_RETURN_IF_ERROR(check("eval_every", static_cast<double>(o.eval_every), 1, 1e9));
  EIGSVC_RETURN_IF_ERROR(check("eval_examples", static_cast<double>(o.eval_examples), 1, 1e9));
  return check("stop_at_score", o.stop_at_score, 0, 1e30);
}

class Trainer {
 public:
  Trainer(const SequenceModel& model, const Task& task, const TrainingOptions& options,
          const std::function<void(const TrainingProgress&)>& progress, const StopToken& stop)
      : model_(model),
        task_(task),
        options_(options),
        progress_(progress),
        stop_(stop),
        batches_(task, Split::kTrain) {}

  absl::StatusOr<TrainingResult> Run() {
    EIGSVC_RETURN_IF_ERROR(CheckOptions(options_));
    EIGSVC_RETURN_IF_ERROR(CheckTask());
    EIGSVC_RETURN_IF_ERROR(Prepare());
    const absl::Status status = Loop();
    if (status.code() == absl::StatusCode::kCancelled ||
        status.code() == absl::StatusCode::kDeadlineExceeded) {
      EIGSVC_RETURN_IF_ERROR(LookAtAll());
      const absl::Status saved = SaveLastCheckpoint();
      if (!saved.ok())
        return Annotate(status, absl::StrCat("the last checkpoint was not kept (", saved.message(), ")"));
    }
    if (!status.ok()) return status;
    result_.steps = record_.step;
    result_.best_step = record_.best_step;
    result_.total_time = absl::Now() - start_;
    return std::move(result_);
  }

 private:
  absl::Status CheckTask() const {
    EIGSVC_RETURN_IF_ERROR(CheckFits(task_, model_.description()));
    if (task_.example_count(Split::kTrain) == 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          "task ", task_.name(), " has no training examples; see its parameters in `eigsvc tasks`"));
    }
    if (model_.dtype() != at::kFloat && model_.dtype() != at::kDouble) {
      return absl::FailedPreconditionError("training needs a model of float32 or float64 weights");
    }
    return absl::OkStatus();
  }

  absl::Status Prepare() {
    if (!options_.resume_path.empty()) {
      EIGSVC_ASSIGN_OR_RETURN(ResumedTraining resumed,
                              LoadLast(model_, options_.resume_path, options_.reader, stop_));
      if (resumed.record.step >= options_.steps) {
        return absl::FailedPreconditionError(absl::StrCat(
            options_.resume_path, " already has ", resumed.record.step, " steps; ask for more than that"));
      }
      weights_ = std::move(resumed.weights);
      parameters_ = std::move(resumed.parameters);
      record_ = resumed.record;
      result_.best.value = record_.best_score;  // its interval was not kept
    } else {
      EIGSVC_ASSIGN_OR_RETURN(const ModelWeights whole, model_.weights().Whole(stop_));
      EIGSVC_ASSIGN_OR_RETURN(weights_,
                              CallTorch("weights", [&] { return whole.Clone(/*requires_grad=*/true); }));
      EIGSVC_ASSIGN_OR_RETURN(parameters_,
                              CallTorch("weights", [&] { return ListParameters(model_, weights_); }));
    }
    result_.last_path = options_.last_path;
    return absl::OkStatus();
  }

  absl::Status Loop() {
    while (record_.step < options_.steps) {
      EIGSVC_RETURN_IF_ERROR(stop_.Check());
      EIGSVC_RETURN_IF_ERROR(Step());
      const bool evaluate = record_.step % options_.eval_every == 0 || record_.step == options_.steps;
      const bool report = evaluate || absl::Now() - last_report_ >= kReportInterval;
      if (report) {
        EIGSVC_RETURN_IF_ERROR(LookAtAll());
      }
      if (evaluate) {
        EIGSVC_RETURN_IF_ERROR(Evaluate());
      }
      if (report) Report(evaluate);
      if (evaluate && Reached()) break;
    }
    return absl::OkStatus();
  }

  absl::Status Step() {
    const int64_t last = std::min(options_.steps, record_.step + static_cast<int64_t>(Prefetch::kDepth));
    for (int64_t step = record_.step; step < last; ++step) batches_.Expect(RangeAt(step));
    const Prefetch::Range range = RangeAt(record_.step);
    EIGSVC_ASSIGN_OR_RETURN(const Batch batch, batches_.Take(range));
    EIGSVC_RETURN_IF_ERROR(CheckBatch(task_, batch, Split::kTrain, range.first, model_.description()));
    const c10::AutoGradMode with_gradients(true);
    // A function of seed and step alone, so that a resumed training goes on as if it had not stopped.
    EIGSVC_ASSIGN_OR_RETURN(
        TrainingMode training, CallTorch("dropout", [&] {
          const uint64_t seed = Random({options_.seed, static_cast<uint64_t>(record_.step)}).Bits();
          return TrainingMode{SeededGenerator(weights_.Distinct().front().device(), seed)};
        }));
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor loss, TrainingLoss(model_, weights_, batch, stop_, &training));
    EIGSVC_RETURN_IF_ERROR(CallTorchStatus(absl::StrCat("step ", record_.step + 1), [&] {
      loss.backward();
      const at::Tensor norm = AdamWStep(parameters_, options_, record_.step);
      const at::Tensor figures[] = {loss.detach().to(at::kDouble), norm.to(loss.device(), at::kDouble)};
      record_.step += 1;
      queued_.push_back({record_.step, HostCopy(at::stack(figures))});
      return absl::OkStatus();
    }));
    for (int64_t length : batch.lengths) tokens_ += length;
    // The step before, by now: the device is not to wait for the host. Where steps are long a pause does not
    // matter, and a cancel is to find one at most.
    while (queued_.size() > (long_steps_ ? 0 : 1)) EIGSVC_RETURN_IF_ERROR(LookAtOldest());
    return absl::OkStatus();
  }

  absl::Status LookAtOldest() {
    QueuedStep step = std::move(queued_.front());
    queued_.pop_front();
    return CallTorchStatus(absl::StrCat("step ", step.number), [&]() -> absl::Status {
      const absl::Time start = absl::Now();
      const at::Tensor& figures = step.figures.Wait();
      long_steps_ = absl::Now() - start >= kLongStep;
      const double loss = figures[0].item<double>();
      gradient_norm_ = figures[1].item<double>();
      if (!std::isfinite(loss)) return NotFinite(step.number, "loss", loss);
      if (!std::isfinite(gradient_norm_)) return NotFinite(step.number, "gradient's norm", gradient_norm_);
      loss_sum_ += loss;
      loss_count_ += 1;
      return absl::OkStatus();
    });
  }

  absl::Status LookAtAll() {
    while (!queued_.empty()) EIGSVC_RETURN_IF_ERROR(LookAtOldest());
    return absl::OkStatus();
  }

  Prefetch::Range RangeAt(int64_t step) const {
    const int64_t examples = task_.example_count(Split::kTrain);
    const int64_t rows = std::min(options_.batch_size, examples);
    return {rows * BatchAt(options_.seed, step, examples / rows), rows};
  }

  static absl::Status NotFinite(int64_t step, absl::string_view what, double value) {
    return absl::AbortedError(
        absl::StrCat("step ", step, ": the ", what, " is ", value,
                     "; lower the learning rate, lengthen the warm-up or clip the gradient"));
  }

  absl::Status Evaluate() {
    AnalysisOptions analysis;
    analysis.split = Split::kTest;
    analysis.examples = std::min(options_.eval_examples, task_.example_count(Split::kTest));
    EIGSVC_ASSIGN_OR_RETURN(AnalysisResult evaluation,
                            RunAnalysis(model_, weights_, task_, analysis, nullptr, stop_));
    result_.last = std::move(evaluation.score);
    result_.sites = std::move(evaluation.sites);
    result_.best.metric = result_.last.metric;
    const double value = result_.last.value;
    const bool better = LowerIsBetter(result_.last) ? value < record_.best_score : value > record_.best_score;
    if (!record_.evaluated || std::isnan(record_.best_score) || better) {
      record_.evaluated = true;
      record_.best_score = value;
      record_.best_step = record_.step;
      result_.best = result_.last;
      if (!options_.output_path.empty()) {
        EIGSVC_RETURN_IF_ERROR(SaveBest(model_, weights_, task_, options_, record_, options_.output_path));
        result_.best_path = options_.output_path;
      }
    }
    return SaveLastCheckpoint();
  }

  absl::Status SaveLastCheckpoint() const {
    if (options_.last_path.empty()) return absl::OkStatus();
    return SaveLast(model_, weights_, task_, options_, record_, parameters_, options_.last_path);
  }

  bool Reached() const {
    if (options_.stop_at_score <= 0) return false;
    return LowerIsBetter(result_.last) ? result_.last.value <= options_.stop_at_score
                                       : result_.last.value >= options_.stop_at_score;
  }

  void Report(bool evaluated) {
    const absl::Time now = absl::Now();
    const double seconds = std::max(absl::ToDoubleSeconds(now - last_report_), 1e-9);
    if (loss_count_ > 0) result_.final_loss = loss_sum_ / static_cast<double>(loss_count_);
    if (progress_ != nullptr) {
      TrainingProgress report;
      report.step = record_.step;
      report.steps = options_.steps;
      report.loss = result_.final_loss;
      report.learning_rate = LearningRate(options_, record_.step - 1);
      report.gradient_norm = gradient_norm_;
      report.tokens_per_second = static_cast<double>(tokens_) / seconds;
      report.evaluated = evaluated;
      report.best_score = record_.best_score;
      if (evaluated) {
        report.score = result_.last;
        report.sites = &result_.sites;
      }
      progress_(report);
    }
    loss_sum_ = 0;
    loss_count_ = tokens_ = 0;
    last_report_ = absl::Now();
  }

  const SequenceModel& model_;
  const Task& task_;
  const TrainingOptions& options_;
  const std::function<void(const TrainingProgress&)>& progress_;
  const StopToken& stop_;
  Prefetch batches_;
  // A step whose figures, loss and norm of the gradient, were not looked at yet.
  struct QueuedStep {
    int64_t number;
    HostCopy figures;
  };
  std::deque<QueuedStep> queued_;
  bool long_steps_ = false;
  ModelWeights weights_;
  std::vector<Parameter> parameters_;
  TrainingRecord record_;
  TrainingResult result_;
  const absl::Time start_ = absl::Now();
  absl::Time last_report_ = start_;
  double loss_sum_ = 0, gradient_norm_ = 0;
  int64_t loss_count_ = 0, tokens_ = 0;
};

}  // namespace

absl::StatusOr<TrainingResult> RunTraining(const SequenceModel& model, const Task& task,
                                           const TrainingOptions& options,
                                           const std::function<void(const TrainingProgress&)>& progress,
                                           const StopToken& stop) {
  return Trainer(model, task, options, progress, stop).Run();
}

}  // namespace eigsvc
