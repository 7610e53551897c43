#include "server/jobs/metrics_feed.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace eigsvc {
namespace {

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

template <typename Indices, typename Counts>
void AddTo(std::map<int, uint64_t>& bins, const Indices& indices, const Counts& counts) {
  for (int i = 0; i < std::min(indices.size(), counts.size()); ++i) bins[indices[i]] += counts[i];
}

std::map<std::string, double> Scores(const v1::Score& score) {
  if (score.metric().empty() || std::isnan(score.value())) return {};
  return {{score.metric(), score.value()}};
}

}  // namespace

std::string ModelAlias(const v1::CheckpointRef& ref, absl::string_view family, bool in_training) {
  std::string alias;
  if (ref.has_name()) {
    alias = std::string(absl::StripSuffix(ref.name(), "/"));
  } else if (ref.has_initializer()) {
    alias = in_training ? std::string(family) : absl::StrCat("untrained:", family);
  } else {
    alias = absl::StrCat("upload:", family);
  }
  return ref.has_twin_seed() ? absl::StrCat("twin:", alias) : alias;
}

SpectrumSnapshot MergedSpectrum(const google::protobuf::RepeatedPtrField<v1::SiteSpectrum>& sites) {
  SpectrumSnapshot merged;
  for (const v1::SiteSpectrum& site : sites) {
    const v1::SpectrumSummary& summary = site.summary();
    const v1::SpectrumBins& bins = site.bins();
    AddTo(merged.below_1, bins.below_1_index(), bins.below_1_count());
    AddTo(merged.beyond_1, bins.beyond_1_index(), bins.beyond_1_count());
    AddTo(merged.phase, bins.phase_index(), bins.phase_count());
    merged.zeros += static_cast<uint64_t>(bins.zero_count());
    merged.ones += static_cast<uint64_t>(bins.one_count());
    merged.nonfinite += static_cast<uint64_t>(summary.nonfinite_count());
    if (summary.count() == 0) continue;
    // The shares were made from integers of at most 53 bits, which rounding gives back.
    const auto counted = [&](double share) {
      return static_cast<uint64_t>(std::llround(share * static_cast<double>(summary.count())));
    };
    merged.le_0_1 += counted(summary.le_0_1());
    merged.near_1 += counted(summary.near_1());
    merged.above_1 += counted(summary.above_1());
    merged.max_log_magnitude = std::max(merged.max_log_magnitude, summary.max());
  }
  return merged;
}

MetricsFeed::MetricsFeed(Metrics& metrics, std::string run, std::string device, v1::CheckpointRef ref,
                         std::string task)
    : metrics_(metrics),
      run_(std::move(run)),
      task_(std::move(task)),
      ref_(std::move(ref)),
      key_{std::move(device), ""},
      phase_start_(absl::Now()) {}

MetricsFeed::~MetricsFeed() {
  if (in_training_) metrics_.JobPhaseTook("training", "train", absl::Now() - phase_start_);
  metrics_.ForgetTraining(run_);
}

void MetricsFeed::Loaded(absl::string_view kind, const v1::Model& model) {
  const absl::Time now = absl::Now();
  metrics_.JobPhaseTook(kind, "load", now - std::exchange(phase_start_, now));
  key_.model_id = model.model_id();
  family_ = model.family();
}

void MetricsFeed::See(const v1::AnalysisEvent& event) {
  if (event.has_model()) Loaded("analysis", event.model());
  if (!event.has_result()) return;
  const v1::AnalysisResult& result = event.result();
  metrics_.JobPhaseTook("analysis", "forward", ToDuration(result.forward_time()));
  metrics_.JobPhaseTook("analysis", "eigenvalues", ToDuration(result.analysis_time()));
  if (result.has_window()) return;  // the gauges are of steps
  SpectrumSnapshot snapshot = MergedSpectrum(result.sites());
  snapshot.scores = Scores(result.score());
  metrics_.SetSpectrum(ModelAlias(ref_, family_, /*in_training=*/false), task_, key_, snapshot);
}

void MetricsFeed::See(const v1::TrainingEvent& event) {
  if (event.has_model()) {
    Loaded("training", event.model());
    in_training_ = true;
  }
  if (!event.has_progress()) return;
  const v1::TrainingProgress& progress = event.progress();
  training_.model = ModelAlias(ref_, family_, /*in_training=*/true);
  training_.task = task_;
  training_.step = progress.step();
  training_.steps = progress.steps();
  training_.loss = progress.loss();
  training_.learning_rate = progress.learning_rate();
  training_.gradient_norm = progress.gradient_norm();
  training_.tokens_per_second = progress.tokens_per_second();
  // Each report repeats the newest evaluation.
  if (progress.has_score() && progress.score_step() != evaluated_step_) {
    evaluated_step_ = progress.score_step();
    training_.scores = Scores(progress.score());
    training_.spectrum = MergedSpectrum(progress.sites());
  }
  metrics_.SetTraining(run_, training_);
}

}  // namespace eigsvc
