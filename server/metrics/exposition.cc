#include "server/metrics/exposition.h"

#include <cmath>
#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace eigsvc {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

std::string Number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  for (const int digits : {6, 15, 17}) {  // the shortest of these that reads back the same
    char text[40];
    std::snprintf(text, sizeof text, "%.*g", digits, value);
    double again = 0;
    if (absl::SimpleAtod(text, &again) && again == value) return text;
  }
  return "NaN";
}

// OpenMetrics has one way to write an edge, so that two exporters' are the same label: a float's shortest
// digits, with an exponent below 1e-4 and from 1e6 on, and never without a point or an exponent.
std::string CanonicalNumber(double value) {
  if (!std::isfinite(value)) return Number(value);
  if (std::abs(value) >= 1e6) {
    for (int digits = 0; digits < 17; ++digits) {
      char text[40];
      std::snprintf(text, sizeof text, "%.*e", digits, value);
      double again = 0;
      if (absl::SimpleAtod(text, &again) && again == value) return text;
    }
  }
  std::string text = Number(value);
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

std::string Labels(const std::vector<ClientMetric::Label>& labels, absl::string_view extra_name = "",
                   absl::string_view extra = "") {
  std::string text;
  const auto add = [&](absl::string_view name, absl::string_view value) {
    absl::StrAppend(&text, text.empty() ? "{" : ",", name, "=\"",
                    absl::StrReplaceAll(value, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}), "\"");
  };
  for (const ClientMetric::Label& label : labels) add(label.name, label.value);
  if (!extra_name.empty()) add(extra_name, extra);
  return text.empty() ? text : text + "}";
}

const char* TypeName(MetricType type) {
  switch (type) {
    case MetricType::Counter:
      return "counter";
    case MetricType::Gauge:
      return "gauge";
    case MetricType::Histogram:
      return "histogram";
    case MetricType::Summary:
      return "summary";
    default:
      return "unknown";
  }
}

void AppendFamily(const MetricFamily& family, MetricsFormat format, std::string& text) {
  const bool open = format == MetricsFormat::kOpenMetrics;
  // OpenMetrics names a counter's family without what its samples end in.
  absl::string_view name = family.name;
  if (open && family.type == MetricType::Counter) absl::ConsumeSuffix(&name, "_total");
  std::vector<std::pair<std::string, std::string>> escapes = {{"\\", "\\\\"}, {"\n", "\\n"}};
  if (open) escapes.emplace_back("\"", "\\\"");
  absl::StrAppend(&text, "# HELP ", name, " ", absl::StrReplaceAll(family.help, escapes), "\n# TYPE ", name,
                  " ", TypeName(family.type), "\n");
  for (const ClientMetric& metric : family.metric) {
    const std::string labels = Labels(metric.label);
    if (family.type == MetricType::Counter) {
      absl::StrAppend(&text, family.name, labels, " ", Number(metric.counter.value), "\n");
    } else if (family.type == MetricType::Gauge) {
      absl::StrAppend(&text, name, labels, " ", Number(metric.gauge.value), "\n");
    } else if (family.type == MetricType::Histogram) {
      for (const ClientMetric::Bucket& bucket : metric.histogram.bucket) {
        const std::string edge = open ? CanonicalNumber(bucket.upper_bound) : Number(bucket.upper_bound);
        absl::StrAppend(&text, name, "_bucket", Labels(metric.label, "le", edge), " ",
                        bucket.cumulative_count, "\n");
      }
      absl::StrAppend(&text, name, "_sum", labels, " ", Number(metric.histogram.sample_sum), "\n", name,
                      "_count", labels, " ", metric.histogram.sample_count, "\n");
    }
  }
}

}  // namespace

MetricsFormat ChooseFormat(absl::string_view accept) {
  MetricsFormat best = MetricsFormat::kPrometheusText;
  double best_quality = 0;
  for (const absl::string_view range : absl::StrSplit(accept, ',')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(range, ';');
    const std::string type = absl::AsciiStrToLower(absl::StripAsciiWhitespace(parts[0]));
    double quality = 1;
    bool known_version = true;
    for (size_t i = 1; i < parts.size(); ++i) {
      absl::string_view parameter = absl::StripAsciiWhitespace(parts[i]);
      if (absl::ConsumePrefix(&parameter, "q=") && !absl::SimpleAtod(parameter, &quality)) quality = 0;
      // 0.0.1, which Prometheus asks for as well, is written alike; nothing newer is known.
      if (absl::ConsumePrefix(&parameter, "version=") && type == "application/openmetrics-text") {
        if (parameter.size() > 1 && absl::ConsumePrefix(&parameter, "\""))
          absl::ConsumeSuffix(&parameter, "\"");
        known_version = parameter == "1.0.0" || parameter == "0.0.1";
      }
    }
    if (!known_version || quality <= best_quality) continue;
    if (type == "application/openmetrics-text") {
      best = MetricsFormat::kOpenMetrics;
    } else if (type == "text/plain" || type == "text/*" || type == "*/*") {
      best = MetricsFormat::kPrometheusText;
    } else {
      continue;
    }
    best_quality = quality;
  }
  return best;
}

absl::string_view ContentType(MetricsFormat format) {
  return format == MetricsFormat::kOpenMetrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                               : "text/plain; version=0.0.4; charset=utf-8";
}

std::string Expose(const std::vector<MetricFamily>& families, MetricsFormat format) {
  std::string text;
  for (const MetricFamily& family : families) AppendFamily(family, format, text);
  if (format == MetricsFormat::kOpenMetrics) text += "# EOF\n";
  return text;
}

}  // namespace eigsvc
