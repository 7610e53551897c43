#include "models/analysis/shared_analysis.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "c10/core/DeviceGuard.h"
#include "models/base/status_macros.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {
namespace {

constexpr absl::Duration kStopPoll = absl::Milliseconds(10);

void MergeSites(const std::vector<SiteSpectrum>& from, std::vector<SiteSpectrum>& into) {
  const auto before = [](const SiteSpectrum& a, const SiteSpectrum& b) { return a.site < b.site; };
  for (const SiteSpectrum& site : from) {
    const auto at = std::lower_bound(into.begin(), into.end(), site, before);
    if (at == into.end() || at->site != site.site) {
      into.insert(at, site);
    } else {
      at->spectrum.Merge(site.spectrum);
    }
  }
}

// What the shares have come to, told as one analysis. Thread-safe.
class Shares {
 public:
  Shares(size_t count, const Task& task, const AnalysisOptions& options, int64_t examples,
         const std::function<void(const AnalysisProgress&)>& progress)
      : task_(task),
        options_(options),
        examples_(examples),
        progress_(progress),
        next_report_(absl::Now() + options.progress_interval),
        shares_(count) {}

  void Report(size_t index, const AnalysisProgress& progress) {
    const absl::MutexLock lock(&mutex_);
    const absl::Time start = absl::Now();
    shares_[index] = {progress.examples_done, progress.eigenvalues, *progress.sites, *progress.predictions};
    if (start < next_report_) return;
    const Share all = Merged();
    AnalysisProgress report = progress;
    report.examples_done = all.examples;
    report.examples_total = examples_;
    report.eigenvalues = all.eigenvalues;
    report.score = task_.ComputeScore(options_.split, all.predictions);
    report.sites = &all.sites;
    report.predictions = &all.predictions;
    progress_(report);
    const absl::Time end = absl::Now();
    next_report_ = end + std::max(options_.progress_interval, 10 * (end - start));
  }

  void End(size_t index, absl::StatusOr<AnalysisResult> result) {
    const absl::MutexLock lock(&mutex_);
    if (result.ok()) {
      shares_[index] = {result->examples, result->eigenvalues, std::move(result->sites),
                        std::move(result->predictions)};
      AnalysisResult& all = results_;
      all.convention = result->convention;
      all.batches += result->batches;
      all.tokens += result->tokens;
      all.redone += result->redone;
      all.batch_size = std::max(all.batch_size, result->batch_size);
      if (all.halvings == 0 || (result->halvings > 0 && result->halved_to < all.halved_to))
        all.halved_to = result->halved_to;
      all.halvings += result->halvings;
      all.forward_time = std::max(all.forward_time, result->forward_time);
      all.analysis_time = std::max(all.analysis_time, result->analysis_time);
    } else if (status_.ok()) {
      status_ = result.status();
    }
    ++ended_;
  }

  // Whether all have ended, or one has failed, within `patience`.
  bool Settled(absl::Duration patience) {
    const absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(this, &Shares::SettledLocked), patience);
  }

  // After all threads have ended.
  absl::StatusOr<AnalysisResult> Result() {
    const absl::MutexLock lock(&mutex_);
    EIGSVC_RETURN_IF_ERROR(status_);
    Share all = Merged();
    results_.score = task_.ComputeScore(options_.split, all.predictions);
    results_.examples = all.examples;
    results_.eigenvalues = all.eigenvalues;
    results_.sites = std::move(all.sites);
    results_.predictions = std::move(all.predictions);
    return std::move(results_);
  }

 private:
  struct Share {
    int64_t examples = 0, eigenvalues = 0;
    std::vector<SiteSpectrum> sites;
    std::vector<Prediction> predictions;
  };

  Share Merged() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Share all;
    for (const Share& share : shares_) {
      all.examples += share.examples;
      all.eigenvalues += share.eigenvalues;
      MergeSites(share.sites, all.sites);
      all.predictions.insert(all.predictions.end(), share.predictions.begin(), share.predictions.end());
    }
    return all;
  }
  bool SettledLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !status_.ok() || ended_ == shares_.size();
  }

  const Task& task_;
  const AnalysisOptions& options_;
  const int64_t examples_;
  const std::function<void(const AnalysisProgress&)>& progress_;
  absl::Mutex mutex_;
  absl::Time next_report_ ABSL_GUARDED_BY(mutex_);
  std::vector<Share> shares_ ABSL_GUARDED_BY(mutex_);
  size_t ended_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  AnalysisResult results_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<AnalysisResult> RunShare(const SequenceModel& model, const ModelWeights& weights,
                                        const Task& task, const AnalysisOptions& options,
                                        const std::function<void(const AnalysisProgress&)>& progress,
                                        const StopToken& stop) {
  return CallTorch("analysis", [&] {
    // What names no device, pinned buffers and the kernels' launches among it, means this thread's.
    std::optional<c10::DeviceGuard> guard;
    const c10::Device device = weights.Distinct().front().device();
    if (!device.is_cpu()) guard.emplace(device);
    return RunAnalysis(model, weights, task, options, progress, stop);
  });
}

}  // namespace

absl::StatusOr<AnalysisResult> RunSharedAnalysis(const SequenceModel& model,
                                                 absl::Span<const ModelWeights* const> replicas,
                                                 const Task& task, const AnalysisOptions& options,
                                                 const std::function<void(const AnalysisProgress&)>& progress,
                                                 const StopToken& stop) {
  const absl::Time start = absl::Now();
  EIGSVC_ASSIGN_OR_RETURN(const int64_t examples, ExamplesOf(task, options));
  if (!options.export_path.empty() || !options.window.IsStep())
    return absl::InvalidArgumentError(
        "several devices neither export nor take windows; analyse on one of them");
  const int64_t batch = std::max<int64_t>(options.batch_size, 1), batches = (examples + batch - 1) / batch;
  const auto count = std::min(static_cast<int64_t>(replicas.size()), batches);

  Shares shares(count, task, options, examples, progress);
  StopToken stop_shares;
  std::vector<std::thread> threads;
  for (int64_t index = 0; index < count; ++index) {
    AnalysisOptions part = options;
    part.first_example = options.first_example + batches * index / count * batch;
    part.examples = options.first_example + std::min(batches * (index + 1) / count * batch, examples) -
                    part.first_example;
    threads.emplace_back([&, part = std::move(part), index] {
      const std::function<void(const AnalysisProgress&)> report =
          progress ? [&](const AnalysisProgress& told) { shares.Report(index, told); }
                   : std::function<void(const AnalysisProgress&)>();
      shares.End(index, RunShare(model, *replicas[index], task, part, report, stop_shares));
    });
  }
  absl::Status stopped;
  while (!shares.Settled(kStopPoll)) {
    stopped = stop.Check();
    if (!stopped.ok()) break;
  }
  stop_shares.Cancel();  // where one failed, or it was asked for
  for (std::thread& thread : threads) thread.join();
  EIGSVC_RETURN_IF_ERROR(stopped);
  EIGSVC_ASSIGN_OR_RETURN(AnalysisResult result, shares.Result());
  result.total_time = absl::Now() - start;
  return result;
}

}  // namespace eigsvc
