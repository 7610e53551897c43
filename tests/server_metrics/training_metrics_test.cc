#include "server/metrics/training_metrics.h"

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace eigsvc {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

// By "model/task[/label]".
std::map<std::string, double> Values(const TrainingMetrics& metrics, const std::string& name) {
  std::map<std::string, double> values;
  for (const MetricFamily& family : metrics.Collect()) {
    if (family.name != name) continue;
    for (const ClientMetric& metric : family.metric) {
      std::string key;
      for (const ClientMetric::Label& label : metric.label)
        absl::StrAppend(&key, key.empty() ? "" : "/", label.value);
      values[key] = metric.gauge.value;
    }
  }
  return values;
}

TrainingSnapshot RunOf(const std::string& model, int64_t step) {
  TrainingSnapshot snapshot;
  snapshot.model = model;
  snapshot.task = "mqar";
  snapshot.step = step;
  snapshot.loss = 2.5;
  return snapshot;
}

TEST(TrainingMetricsTest, ShowsARunWhileItLasts) {
  TrainingMetrics metrics;
  metrics.Set("tr-1", RunOf("mamba2", 10));
  metrics.Set("tr-1", RunOf("mamba2", 20));
  EXPECT_THAT(Values(metrics, "eigsvc_training_step"), ElementsAre(Pair("mamba2/mqar", 20)));
  EXPECT_THAT(Values(metrics, "eigsvc_training_loss"), ElementsAre(Pair("mamba2/mqar", 2.5)));
  EXPECT_THAT(Values(metrics, "eigsvc_training_score"), IsEmpty());
  EXPECT_THAT(Values(metrics, "eigsvc_training_spectrum_radius"), IsEmpty());
  metrics.Forget("tr-1");
  EXPECT_THAT(metrics.Collect(), IsEmpty());
}

TEST(TrainingMetricsTest, ShowsScoreAndSpectrumOfTheNewestEvaluation) {
  TrainingMetrics metrics;
  TrainingSnapshot run = RunOf("mamba2", 10);
  run.scores = {{"accuracy", 0.75}};
  run.spectrum.emplace();
  run.spectrum->zeros = 1;
  run.spectrum->ones = 3;
  run.spectrum->le_0_1 = 1;
  run.spectrum->near_1 = 3;
  run.spectrum->max_log_magnitude = std::log(2.0);
  metrics.Set("tr-1", run);
  EXPECT_THAT(Values(metrics, "eigsvc_training_score"), ElementsAre(Pair("mamba2/mqar/accuracy", 0.75)));
  EXPECT_THAT(Values(metrics, "eigsvc_training_spectrum_near_zero_ratio"),
              ElementsAre(Pair("mamba2/mqar", 0.25)));
  EXPECT_THAT(Values(metrics, "eigsvc_training_spectrum_near_one_ratio"),
              ElementsAre(Pair("mamba2/mqar", 0.75)));
  EXPECT_THAT(Values(metrics, "eigsvc_training_spectrum_above_one_ratio"),
              ElementsAre(Pair("mamba2/mqar", 0)));
  EXPECT_THAT(Values(metrics, "eigsvc_training_spectrum_radius"), ElementsAre(Pair("mamba2/mqar", 2)));
  EXPECT_THAT(Values(metrics, "eigsvc_training_spectrum_median_timescale_steps"),
              ElementsAre(Pair("mamba2/mqar", INFINITY)));
}

TEST(TrainingMetricsTest, OfTwoRunsOfAPairTheNewestReportShows) {
  TrainingMetrics metrics;
  metrics.Set("tr-1", RunOf("mamba2", 10));
  metrics.Set("tr-2", RunOf("mamba2", 1));
  EXPECT_THAT(Values(metrics, "eigsvc_training_step"), ElementsAre(Pair("mamba2/mqar", 1)));
  metrics.Set("tr-1", RunOf("mamba2", 11));
  EXPECT_THAT(Values(metrics, "eigsvc_training_step"), ElementsAre(Pair("mamba2/mqar", 11)));
  metrics.Forget("tr-1");
  EXPECT_THAT(Values(metrics, "eigsvc_training_step"), ElementsAre(Pair("mamba2/mqar", 1)));
}

TEST(TrainingMetricsTest, KeepsTheNewestRunsOnly) {
  TrainingMetrics metrics;
  for (int run = 0; run < 100; ++run)
    metrics.Set(absl::StrCat("tr-", run), RunOf(absl::StrCat("m", run), run));
  const std::map<std::string, double> steps = Values(metrics, "eigsvc_training_step");
  EXPECT_EQ(steps.size(), TrainingMetrics::kMaxRuns);
  EXPECT_EQ(steps.count("m99/mqar"), 1u);
  EXPECT_EQ(steps.count("m35/mqar"), 0u);
}

}  // namespace
}  // namespace eigsvc
