// The text of metric families: Prometheus' text format 0.0.4 and OpenMetrics 1.0.0. prometheus-cpp's own
// serializer writes the first alone and does not escape HELP.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "prometheus/metric_family.h"

namespace eigsvc {

enum class MetricsFormat { kPrometheusText, kOpenMetrics };

// What an HTTP Accept header prefers of the two; the first where it names neither.
MetricsFormat ChooseFormat(absl::string_view accept);
absl::string_view ContentType(MetricsFormat format);
std::string Expose(const std::vector<prometheus::MetricFamily>& families, MetricsFormat format);

}  // namespace eigsvc
