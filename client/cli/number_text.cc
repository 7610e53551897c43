#include "client/cli/number_text.h"

#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace eigsvc::cli {

std::string MagnitudeText(double log_magnitude, const Style& style) {
  if (std::isnan(log_magnitude)) return std::string(style.Pick("–", "-"));
  if (std::isinf(log_magnitude)) return log_magnitude < 0 ? "0" : std::string(style.Pick("∞", "inf"));
  const double distance = -std::expm1(log_magnitude);  // 1-|λ|, exact near 1
  if (distance == 0) return "1";
  if (std::abs(distance) < 1e-6) {
    return absl::StrFormat("1%c%.1e", distance > 0 ? '-' : '+', std::abs(distance));
  }
  const double magnitude = std::exp(log_magnitude);
  // Close to 1 the interesting digits are those of the distance: two of them.
  if (std::abs(distance) < 0.1) {
    const int decimals = 1 - static_cast<int>(std::floor(std::log10(std::abs(distance))));
    return absl::StrFormat("%.*f", decimals, magnitude);
  }
  if (magnitude >= 1e-3 && magnitude < 1e4) {
    const int decimals = 2 - static_cast<int>(std::floor(std::log10(magnitude)));
    return absl::StrFormat("%.*f", std::max(0, decimals), magnitude);
  }
  // Beyond what a double holds, by its logarithm.
  if (std::abs(log_magnitude) > 700) {
    const double decimal = log_magnitude / std::log(10.0);
    double exponent = std::floor(decimal);
    double mantissa = std::round(std::pow(10.0, decimal - exponent) * 10) / 10;
    if (mantissa >= 10) {
      mantissa = 1;
      exponent += 1;
    }
    return absl::StrFormat("%.1fe%+.0f", mantissa, exponent);
  }
  return absl::StrFormat("%.1e", magnitude);
}

std::string HalfLifeText(double log_magnitude, const Style& style) {
  if (std::isnan(log_magnitude)) return std::string(style.Pick("–", "-"));
  if (log_magnitude > 0) return "grows";
  if (log_magnitude == 0) return std::string(style.Pick("∞", "inf"));
  if (std::isinf(log_magnitude)) return "0";
  const double steps = std::log(2.0) / -log_magnitude;
  if (steps < 0.01) return absl::StrFormat("%.0e", steps);
  if (steps < 10) return absl::StrFormat("%.2f", steps);
  return ShortCountText(steps);
}

std::string PercentText(double share) {
  const double percent = share * 100;
  if (!(percent > 0)) return "0";
  if (percent < 0.1) return "<0.1";
  if (percent == 100) return "100";
  if (percent > 99.9) return ">99.9";
  return absl::StrFormat("%.1f", percent);
}

std::string CountText(int64_t count) {
  const std::string digits = absl::StrCat(count < 0 ? -count : count);
  std::string text = count < 0 ? "-" : "";
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text.push_back(',');
    text.push_back(digits[i]);
  }
  return text;
}

std::string ShortCountText(double count) {
  if (!std::isfinite(count)) return "-";
  constexpr const char* kSuffixes[] = {"", "k", "M", "G", "T", "P"};
  double value = count;
  int suffix = 0;
  while (std::abs(value) >= 999.5 && suffix < 5) {
    value /= 1000;
    ++suffix;
  }
  if (suffix == 0 && value == std::floor(value)) return absl::StrFormat("%.0f", value);
  if (std::abs(value) >= 1e6) return absl::StrFormat("%.0e%s", value, kSuffixes[suffix]);
  return absl::StrFormat(std::abs(value) < 99.95 ? "%.1f%s" : "%.0f%s", value, kSuffixes[suffix]);
}

std::string BytesText(int64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  constexpr const char* kSuffixes[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  int suffix = 0;
  while (value >= 1023.95 && suffix < 5) {
    value /= 1024;
    ++suffix;
  }
  return absl::StrFormat("%.1f %s", value, kSuffixes[suffix]);
}

std::string DurationText(absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (!std::isfinite(seconds)) return "?";
  if (seconds < 10) return absl::StrFormat("%.2f s", seconds);
  if (seconds < 99.5) return absl::StrFormat("%.0f s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) return absl::StrFormat("%d min %02d s", whole / 60, whole % 60);
  return absl::StrFormat("%d h %02d min", whole / 3600, whole / 60 % 60);
}

std::string ScoreText(double value) {
  if (!std::isfinite(value)) return "-";
  return std::abs(value) < 10 ? absl::StrFormat("%.4f", value) : absl::StrFormat("%.6g", value);
}

}  // namespace eigsvc::cli
