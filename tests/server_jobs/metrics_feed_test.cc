#include "server/jobs/metrics_feed.h"

#include <limits>
#include <string>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace eigsvc {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::CheckpointRef Named(const std::string& name) {
  v1::CheckpointRef ref;
  ref.set_name(name);
  return ref;
}

v1::SiteSpectrum Site() {
  v1::SiteSpectrum site;
  v1::SpectrumSummary& summary = *site.mutable_summary();
  summary.set_count(10);
  summary.set_nonfinite_count(1);
  summary.set_near_1(0.3);
  summary.set_le_0_1(0.2);
  summary.set_above_1(0.1);
  summary.set_max(0.5);
  v1::SpectrumBins& bins = *site.mutable_bins();
  bins.add_below_1_index(900);
  bins.add_below_1_count(6);
  bins.add_beyond_1_index(930);
  bins.add_beyond_1_count(1);
  bins.set_zero_count(2);
  bins.set_one_count(1);
  bins.add_phase_index(70);
  bins.add_phase_count(4);
  return site;
}

v1::AnalysisEvent ModelLoaded() {
  v1::AnalysisEvent event;
  event.mutable_model()->set_family("mamba2");
  event.mutable_model()->set_model_id("cpu/abc");
  return event;
}

v1::AnalysisEvent Result() {
  v1::AnalysisEvent event;
  v1::AnalysisResult& result = *event.mutable_result();
  *result.add_sites() = Site();
  result.mutable_score()->set_metric("accuracy");
  result.mutable_score()->set_value(0.75);
  result.mutable_forward_time()->set_seconds(3);
  result.mutable_analysis_time()->set_nanos(500000000);
  return event;
}

TEST(ModelAliasTest, OnlyTheOperatorsNamesAreShown) {
  EXPECT_EQ(ModelAlias(Named("llama/"), "llama", false), "llama");
  EXPECT_EQ(ModelAlias(Named("a/m.pt"), "mamba2", false), "a/m.pt");
  v1::CheckpointRef upload;
  upload.set_sha256(std::string(64, 'a'));
  EXPECT_EQ(ModelAlias(upload, "mamba2", false), "upload:mamba2");
  upload.set_twin_seed(1);
  EXPECT_EQ(ModelAlias(upload, "mamba2", false), "twin:upload:mamba2");
  v1::CheckpointRef fresh;
  fresh.mutable_initializer()->set_family("mamba2");
  EXPECT_EQ(ModelAlias(fresh, "mamba2", false), "untrained:mamba2");
  EXPECT_EQ(ModelAlias(fresh, "mamba2", true), "mamba2");
}

TEST(MergedSpectrumTest, AddsSites) {
  google::protobuf::RepeatedPtrField<v1::SiteSpectrum> sites;
  *sites.Add() = Site();
  *sites.Add() = Site();
  sites[1].mutable_bins()->set_below_1_index(0, 901);
  sites[1].mutable_summary()->set_max(0.25);
  *sites.Add() = v1::SiteSpectrum();  // counts nothing
  const SpectrumSnapshot merged = MergedSpectrum(sites);
  EXPECT_EQ(merged.count(), 20u);
  EXPECT_EQ(merged.below_1, (std::map<int, uint64_t>{{900, 6}, {901, 6}}));
  EXPECT_EQ(merged.beyond_1, (std::map<int, uint64_t>{{930, 2}}));
  EXPECT_EQ(merged.phase, (std::map<int, uint64_t>{{70, 8}}));
  EXPECT_EQ(merged.zeros, 4u);
  EXPECT_EQ(merged.ones, 2u);
  EXPECT_EQ(merged.nonfinite, 2u);
  EXPECT_EQ(merged.le_0_1, 4u);
  EXPECT_EQ(merged.near_1, 6u);
  EXPECT_EQ(merged.above_1, 2u);
  EXPECT_EQ(merged.max_log_magnitude, 0.5);
}

TEST(MetricsFeedTest, AnAnalysisLeavesItsSpectrumUntilTheModelIsUnloaded) {
  Metrics metrics;
  {
    MetricsFeed feed(metrics, "an-1", "cpu", Named("m.pt"), "mqar");
    feed.See(ModelLoaded());
    feed.See(Result());
  }
  std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("eigsvc_spectrum_eigenvalues{model=\"m.pt\",task=\"mqar\"} 10\n"));
  EXPECT_THAT(text, HasSubstr("eigsvc_spectrum_near_one_ratio{model=\"m.pt\",task=\"mqar\"} 0.3\n"));
  EXPECT_THAT(text, HasSubstr("eigsvc_task_score{model=\"m.pt\",task=\"mqar\",metric=\"accuracy\"} 0.75\n"));
  EXPECT_THAT(text, HasSubstr("phase_duration_seconds_sum{kind=\"analysis\",phase=\"forward\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("phase_duration_seconds_sum{kind=\"analysis\",phase=\"eigenvalues\"} 0.5\n"));
  EXPECT_THAT(text, HasSubstr("phase_duration_seconds_count{kind=\"analysis\",phase=\"load\"} 1\n"));
  metrics.SetPool("cpu", {{"cpu/abc"}, 1, 0, 0}, absl::Now() + absl::Seconds(1));
  EXPECT_THAT(metrics.Serialize(), HasSubstr("eigsvc_spectrum_eigenvalues{"));
  metrics.SetPool("cpu", {}, absl::Now() + absl::Seconds(1));
  EXPECT_THAT(metrics.Serialize(), Not(HasSubstr("eigsvc_spectrum_eigenvalues{")));
}

TEST(MetricsFeedTest, ATrainingShowsWhileItRuns) {
  Metrics metrics;
  {
    MetricsFeed feed(metrics, "tr-1", "cpu", Named("m.pt"), "mqar");
    v1::TrainingEvent event;
    event.mutable_model()->set_family("mamba2");
    feed.See(event);
    v1::TrainingProgress& progress = *event.mutable_progress();
    progress.set_step(5);
    progress.set_steps(50);
    progress.set_loss(2.25);
    feed.See(event);
    EXPECT_THAT(metrics.Serialize(), HasSubstr("eigsvc_training_loss{model=\"m.pt\",task=\"mqar\"} 2.25\n"));
    EXPECT_THAT(metrics.Serialize(), Not(HasSubstr("eigsvc_training_spectrum_near_one_ratio{")));
    progress.mutable_score()->set_metric("perplexity");
    progress.mutable_score()->set_value(12);
    progress.set_score_step(5);
    *progress.add_sites() = Site();
    feed.See(event);
    const std::string text = metrics.Serialize();
    EXPECT_THAT(text,
                HasSubstr("eigsvc_training_score{model=\"m.pt\",task=\"mqar\",metric=\"perplexity\"} 12\n"));
    EXPECT_THAT(text,
                HasSubstr("eigsvc_training_spectrum_near_one_ratio{model=\"m.pt\",task=\"mqar\"} 0.3\n"));
    v1::TrainingEvent end;
    end.mutable_result();
    feed.See(end);
  }
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, Not(HasSubstr("eigsvc_training_loss{")));
  EXPECT_THAT(text, HasSubstr("phase_duration_seconds_count{kind=\"training\",phase=\"train\"} 1\n"));
}

TEST(MetricsFeedTest, ATrainingThatIsCutShortHasItsPhases) {
  Metrics metrics;
  { MetricsFeed feed(metrics, "tr-0", "cpu", Named("m.pt"), "mqar"); }  // its worker died at once
  EXPECT_THAT(metrics.Serialize(), Not(HasSubstr("phase=\"train\"")));
  {
    MetricsFeed feed(metrics, "tr-1", "cpu", Named("m.pt"), "mqar");
    v1::TrainingEvent event;
    event.mutable_model()->set_family("mamba2");
    feed.See(event);
    absl::SleepFor(absl::Milliseconds(60));
  }
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("phase_duration_seconds_count{kind=\"training\",phase=\"load\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("phase_duration_seconds_count{kind=\"training\",phase=\"train\"} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("phase_duration_seconds_bucket{kind=\"training\",phase=\"train\",le=\"0.05\"} 0\n"));
  {
    MetricsFeed feed(metrics, "an-1", "cpu", Named("m.pt"), "mqar");
    feed.See(ModelLoaded());
  }
  EXPECT_THAT(metrics.Serialize(),
              HasSubstr("phase_duration_seconds_count{kind=\"training\",phase=\"train\"} 1\n"));
}

TEST(MetricsFeedTest, AScoreOfNothingIsNotShown) {
  Metrics metrics;
  MetricsFeed feed(metrics, "an-1", "cpu", Named("m.pt"), "mqar");
  feed.See(ModelLoaded());
  v1::AnalysisEvent event = Result();
  event.mutable_result()->mutable_score()->set_value(std::numeric_limits<double>::quiet_NaN());
  feed.See(event);
  EXPECT_THAT(metrics.Serialize(), Not(HasSubstr("eigsvc_task_score{")));
}

}  // namespace
}  // namespace eigsvc
