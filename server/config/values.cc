#include "server/config/values.h"

#include <limits>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

absl::Status Bad(absl::string_view text, absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", absl::CHexEscape(text.substr(0, 200)), "\" is not allowed; give ", allowed));
}

bool IsCudaDevice(absl::string_view device) {
  int index = 0;
  return absl::ConsumePrefix(&device, "cuda:") && !device.empty() && device.size() <= 4 &&
         absl::ascii_isdigit(device.front()) && absl::SimpleAtoi(device, &index);
}

}  // namespace

absl::StatusOr<int64_t> ParseSize(absl::string_view text, int64_t minimum) {
  static constexpr struct {
    absl::string_view name;
    int64_t bytes;
  } kUnits[] = {{"KiB", int64_t{1} << 10},
                {"MiB", int64_t{1} << 20},
                {"GiB", int64_t{1} << 30},
                {"TiB", int64_t{1} << 40},
                {"kB", 1000},
                {"MB", 1000000},
                {"GB", 1000000000},
                {"TB", 1000000000000},
                {"B", 1}};
  const std::string allowed = absl::StrCat("a whole number of bytes of at least ", minimum,
                                           ", with a unit if you like: 512MiB, 8GiB, 500MB");
  absl::string_view digits = text;
  int64_t unit = 1;
  for (const auto& candidate : kUnits) {
    if (absl::ConsumeSuffix(&digits, candidate.name)) {
      unit = candidate.bytes;
      break;
    }
  }
  int64_t number = 0;
  if (digits.empty() || !absl::ascii_isdigit(digits.front()) || !absl::SimpleAtoi(digits, &number) ||
      number > std::numeric_limits<int64_t>::max() / unit || number * unit < minimum) {
    return Bad(text, allowed);
  }
  return number * unit;
}

absl::StatusOr<absl::Duration> ParseDurationFlag(absl::string_view text, absl::Duration minimum,
                                                 absl::Duration maximum) {
  absl::Duration value;
  if (!absl::ParseDuration(text, &value) || value < minimum || value > maximum) {
    return Bad(text, absl::StrCat("a duration with a unit, as in 250ms or 1m30s, from ",
                                  absl::FormatDuration(minimum), " to ", absl::FormatDuration(maximum)));
  }
  return value;
}

absl::StatusOr<int64_t> ParseCount(absl::string_view text, int64_t minimum, int64_t maximum) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < minimum || value > maximum) {
    return Bad(text, absl::StrCat("a whole number from ", minimum, " to ", maximum));
  }
  return value;
}

absl::StatusOr<bool> ParseSwitch(absl::string_view text) {
  for (absl::string_view word : {"true", "1", "yes", "on"}) {
    if (absl::EqualsIgnoreCase(text, word)) return true;
  }
  for (absl::string_view word : {"false", "0", "no", "off"}) {
    if (absl::EqualsIgnoreCase(text, word)) return false;
  }
  return Bad(text, "true or false");
}

absl::StatusOr<std::string> ParseChoice(absl::string_view text, const std::vector<std::string>& choices) {
  for (const std::string& choice : choices) {
    if (text == choice) return choice;
  }
  return Bad(text, absl::StrCat("one of ", absl::StrJoin(choices, ", ")));
}

absl::StatusOr<std::vector<std::string>> ParseDevices(absl::string_view text) {
  const std::vector<std::string> devices = absl::StrSplit(text, ',');
  std::set<std::string> seen;
  for (const std::string& device : devices) {
    const bool alone = device == "cpu" || (device == "auto" && devices.size() == 1);
    for (const std::string& member : std::vector<std::string>(absl::StrSplit(device, '+'))) {
      if ((!alone && !IsCudaDevice(member)) || !seen.insert(member).second) {
        return Bad(text,
                   "auto, or a comma-separated list of different devices: cpu, cuda:0, cuda:1; cuda:0+cuda:1 "
                   "where they share each analysis");
      }
    }
  }
  return devices;
}

}  // namespace eigsvc
