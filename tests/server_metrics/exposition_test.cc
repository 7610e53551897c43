#include "server/metrics/exposition.h"

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace eigsvc {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily Family(std::string name, std::string help, MetricType type, ClientMetric metric) {
  return {std::move(name), std::move(help), type, {std::move(metric)}};
}

ClientMetric Gauge(double value, std::vector<ClientMetric::Label> labels = {}) {
  ClientMetric metric;
  metric.label = std::move(labels);
  metric.gauge.value = value;
  return metric;
}

TEST(ExpositionTest, EscapesHelpAndLabels) {
  const std::vector<MetricFamily> families = {
      Family("a", "back\\slash\nand \"quote\"", MetricType::Gauge, Gauge(0.1, {{"l", "q\"b\\s\nn"}}))};
  EXPECT_EQ(Expose(families, MetricsFormat::kPrometheusText),
            "# HELP a back\\\\slash\\nand \"quote\"\n# TYPE a gauge\na{l=\"q\\\"b\\\\s\\nn\"} 0.1\n");
  EXPECT_EQ(
      Expose(families, MetricsFormat::kOpenMetrics),
      "# HELP a back\\\\slash\\nand \\\"quote\\\"\n# TYPE a gauge\na{l=\"q\\\"b\\\\s\\nn\"} 0.1\n# EOF\n");
}

TEST(ExpositionTest, CountersLoseTheirEndingInOpenMetricsAlone) {
  ClientMetric metric;
  metric.counter.value = 3;
  const std::vector<MetricFamily> families = {Family("jobs_total", "Jobs.", MetricType::Counter, metric)};
  EXPECT_EQ(Expose(families, MetricsFormat::kPrometheusText),
            "# HELP jobs_total Jobs.\n# TYPE jobs_total counter\njobs_total 3\n");
  EXPECT_EQ(Expose(families, MetricsFormat::kOpenMetrics),
            "# HELP jobs Jobs.\n# TYPE jobs counter\njobs_total 3\n# EOF\n");
}

TEST(ExpositionTest, HistogramsAndNumbers) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  ClientMetric metric;
  metric.label = {{"k", "v"}};
  metric.histogram = {3, 1e300, {{1, 0.0001}, {3, kInfinity}}};
  EXPECT_EQ(
      Expose({Family("h", "H.", MetricType::Histogram, metric)}, MetricsFormat::kPrometheusText),
      "# HELP h H.\n# TYPE h histogram\nh_bucket{k=\"v\",le=\"0.0001\"} 1\nh_bucket{k=\"v\",le=\"+Inf\"} 3\n"
      "h_sum{k=\"v\"} 1e+300\nh_count{k=\"v\"} 3\n");
  const auto line = [](double value) {
    const std::string text =
        Expose({Family("g", "G.", MetricType::Gauge, Gauge(value))}, MetricsFormat::kPrometheusText);
    return text.substr(text.rfind("g ", text.size() - 2) + 2);
  };
  EXPECT_EQ(line(std::nan("")), "NaN\n");
  EXPECT_EQ(line(-kInfinity), "-Inf\n");
  EXPECT_EQ(line(1.0 / 3), "0.33333333333333331\n");
  EXPECT_EQ(line(1782300000.125), "1782300000.125\n");
}

// The canonical numbers of OpenMetrics 1.0.0: an edge is a label value, so a float must look like one.
TEST(ExpositionTest, EdgesAreCanonicalInOpenMetrics) {
  const std::vector<std::pair<double, std::string>> canonical = {
      {0, "0.0"},           {1, "1.0"},           {10, "10.0"},       {0.25, "0.25"},
      {0.0001, "0.0001"},   {1e-5, "1e-05"},      {3600, "3600.0"},   {100000, "100000.0"},
      {123456, "123456.0"}, {999999, "999999.0"}, {1e6, "1e+06"},     {1048576, "1.048576e+06"},
      {-1, "-1.0"},         {1e10, "1e+10"},      {1.5e20, "1.5e+20"}};
  for (const auto& [edge, text] : canonical) {
    ClientMetric metric;
    metric.histogram = {3, 1, {{1, edge}}};
    const std::vector<MetricFamily> families = {Family("h", "H.", MetricType::Histogram, metric)};
    EXPECT_THAT(Expose(families, MetricsFormat::kOpenMetrics),
                ::testing::HasSubstr("h_bucket{le=\"" + text + "\"} 1\n"));
  }
  ClientMetric metric;
  metric.histogram = {3, 1, {{1, 1}, {3, std::numeric_limits<double>::infinity()}}};
  const std::vector<MetricFamily> families = {Family("h", "H.", MetricType::Histogram, metric)};
  EXPECT_THAT(Expose(families, MetricsFormat::kOpenMetrics), ::testing::HasSubstr("{le=\"+Inf\"} 3\n"));
  EXPECT_THAT(Expose(families, MetricsFormat::kPrometheusText), ::testing::HasSubstr("{le=\"1\"} 1\n"));
}

TEST(ExpositionTest, ChoosesByTheAcceptHeader) {
  const auto open = [](absl::string_view accept) {
    return ChooseFormat(accept) == MetricsFormat::kOpenMetrics;
  };
  EXPECT_FALSE(open(""));
  EXPECT_FALSE(open("*/*"));
  EXPECT_FALSE(open("text/plain;version=0.0.4"));
  EXPECT_TRUE(open("application/openmetrics-text"));
  EXPECT_TRUE(open("application/openmetrics-text; version=\"1.0.0\""));
  EXPECT_FALSE(open("application/openmetrics-text; version=\"2.0.0\""));
  // What Prometheus 2 and 3 send.
  EXPECT_TRUE(open(
      "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
      "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"));
  EXPECT_FALSE(open("application/openmetrics-text;version=1.0.0;q=0.2,text/plain;q=0.8"));
  EXPECT_FALSE(open("application/openmetrics-text;version=2.0.0,text/plain;q=0.1"));
  EXPECT_FALSE(open("application/openmetrics-text;q=x, application/json"));
}

}  // namespace
}  // namespace eigsvc
