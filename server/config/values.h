// How a flag's text becomes a value: sizes, durations, counts, switches. Every error says what was given and
// what is allowed; the caller adds which flag or variable it came from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace eigsvc {

// "64", "8GiB", "500MB": a whole number with B, KiB, MiB, GiB, TiB or kB, MB, GB, TB.
absl::StatusOr<int64_t> ParseSize(absl::string_view text, int64_t minimum);
// "5s", "250ms", "1m30s", in [minimum, maximum].
absl::StatusOr<absl::Duration> ParseDurationFlag(absl::string_view text, absl::Duration minimum,
                                                 absl::Duration maximum);
absl::StatusOr<int64_t> ParseCount(absl::string_view text, int64_t minimum, int64_t maximum);
// "true", "false", "1", "0", "yes", "no", "on", "off".
absl::StatusOr<bool> ParseSwitch(absl::string_view text);
absl::StatusOr<std::string> ParseChoice(absl::string_view text, const std::vector<std::string>& choices);
// "auto" alone, or a comma-separated list of "cpu" and "cuda:N" without repetition.
absl::StatusOr<std::vector<std::string>> ParseDevices(absl::string_view text);

}  // namespace eigsvc
