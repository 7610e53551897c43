// CSV (RFC 4180, with \n): cells quoted where they must be, numbers with the digits that read back the same.
#pragma once

#include <string>
#include <vector>

namespace eigsvc::cli {

// Ended by a newline.
std::string CsvRow(const std::vector<std::string>& cells);
// Empty for NaN and infinities, as null in JSON.
std::string CsvNumber(double value);

}  // namespace eigsvc::cli
