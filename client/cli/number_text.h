// Numbers as people read them. Scripts read JSON and CSV, which carry every digit.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "client/cli/style.h"

namespace eigsvc::cli {

// |λ| from log|λ| with the digits that matter where it is: "0.0312", "0.99987", "1-3.2e-08", "1.0021",
// "4.1e+12".
std::string MagnitudeText(double log_magnitude, const Style& style);
// Steps until half is forgotten, ln 2 / -log|λ|: "0.21", "13.4", "5.2k"; "inf" at |λ| = 1, "grows" beyond.
std::string HalfLifeText(double log_magnitude, const Style& style);
// "12.3", "<0.1", "0", "100": per cent, without the sign.
std::string PercentText(double share);
// "12,345".
std::string CountText(int64_t count);
// "812", "12.3k", "4.5M".
std::string ShortCountText(double count);
// "1.5 MiB".
std::string BytesText(int64_t bytes);
// "0.82 s", "3 min 20 s".
std::string DurationText(absl::Duration duration);
// Four to six significant digits: scores and losses.
std::string ScoreText(double value);

}  // namespace eigsvc::cli
