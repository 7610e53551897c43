#include "client/cli/csv.h"

#include <array>
#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace eigsvc::cli {

std::string CsvRow(const std::vector<std::string>& cells) {
  std::string row;
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) row.push_back(',');
    if (cells[i].find_first_of(",\"\r\n") == std::string::npos) {
      row += cells[i];
    } else {
      absl::StrAppend(&row, "\"", absl::StrReplaceAll(cells[i], {{"\"", "\"\""}}), "\"");
    }
  }
  row.push_back('\n');
  return row;
}

std::string CsvNumber(double value) {
  if (!std::isfinite(value)) return "";
  std::array<char, 32> text{};
  const auto end =
      std::to_chars(text.data(), text.data() + text.size(), value).ptr;  // shortest that round-trips
  return std::string(text.data(), end);
}

}  // namespace eigsvc::cli
