// Reader of NumPy's .npy format (numpy.lib.format, versions 1.0 to 3.0): magic, version, header length, a
// Python dict literal, data. Only the literals which that format writes are understood; nothing is evaluated.
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/base/status_macros.h"
#include "models/tasks/readers/token_file.h"

namespace eigsvc {
namespace {

struct NpyHeader {
  std::string descr;  // "<i4"
  bool fortran_order = false;
  std::vector<int64_t> shape;
};

uint64_t LittleEndian(absl::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

class NpyHeaderReader {
 public:
  NpyHeaderReader(absl::string_view text, absl::string_view name) : text_(text), name_(name) {}

  absl::StatusOr<NpyHeader> Read() {
    NpyHeader header;
    bool has_descr = false, has_order = false, has_shape = false;
    if (!Take("{")) return Error("expected '{'");
    while (!Take("}")) {
      EIGSVC_ASSIGN_OR_RETURN(const std::string key, Quoted());
      if (!Take(":")) return Error("expected ':'");
      if (key == "descr" && !has_descr) {
        EIGSVC_ASSIGN_OR_RETURN(header.descr, Quoted());
        has_descr = true;
      } else if (key == "fortran_order" && !has_order) {
        header.fortran_order = Take("True");
        if (!header.fortran_order && !Take("False")) return Error("expected True or False");
        has_order = true;
      } else if (key == "shape" && !has_shape) {
        EIGSVC_ASSIGN_OR_RETURN(header.shape, Shape());
        has_shape = true;
      } else {
        return Error(absl::StrCat("unknown or repeated key '", key, "'"));
      }
      if (!Take(",") && !absl::StartsWith(text_, "}")) return Error("expected ',' or '}'");
    }
    if (!has_descr || !has_order || !has_shape) return Error("descr, fortran_order or shape is missing");
    if (!text_.empty()) return Error("expected the end of the header");
    return header;
  }

 private:
  // Takes `word` and the white space after it.
  bool Take(absl::string_view word) {
    if (!absl::ConsumePrefix(&text_, word)) return false;
    text_ = absl::StripLeadingAsciiWhitespace(text_);
    return true;
  }

  absl::StatusOr<std::string> Quoted() {
    if (!Take("'")) return Error("expected a quoted string: structured dtypes hold no token ids");
    const size_t end = text_.find('\'');
    if (end == absl::string_view::npos || end > 64) return Error("expected a short quoted string");
    const std::string value(text_.substr(0, end));
    text_.remove_prefix(end);
    Take("'");
    return value;
  }

  absl::StatusOr<std::vector<int64_t>> Shape() {
    std::vector<int64_t> shape;
    if (!Take("(")) return Error("expected '('");
    while (!Take(")")) {
      size_t digits = 0;
      while (digits < text_.size() && absl::ascii_isdigit(text_[digits])) ++digits;
      int64_t extent = 0;
      if (!absl::SimpleAtoi(text_.substr(0, digits), &extent)) return Error("expected a size");
      Take(text_.substr(0, digits));
      shape.push_back(extent);
      if (!Take(",") && !absl::StartsWith(text_, ")")) return Error("expected ',' or ')'");
    }
    return shape;
  }

  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(name_, ": bad .npy header before \"",
                                                   absl::CHexEscape(text_.substr(0, 24)), "\": ", what));
  }

  absl::string_view text_;
  const absl::string_view name_;
};

// "<i4" and its like. Zero bytes: not an integer type this reader takes.
struct IntegerType {
  int bytes = 0;
  bool is_signed = false;
};

IntegerType ParseIntegerType(absl::string_view descr) {
  for (absl::string_view known : {"|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8"}) {
    if (descr == known) return {known[2] - '0', known[1] == 'i'};
  }
  return {};
}

}  // namespace

absl::StatusOr<TokenSequences> ParseNpyTokens(absl::string_view bytes, absl::string_view name) {
  const auto invalid = [&](auto... parts) {
    return absl::InvalidArgumentError(absl::StrCat(name, parts...));
  };
  const auto truncated = [&](auto... parts) {
    return absl::DataLossError(absl::StrCat(name, " is truncated or inconsistent: ", parts...));
  };
  // Magic, two bytes of version, then a header length of two bytes (version 1) or four.
  const size_t prefix = kNpyMagic.size() + 2;
  if (bytes.size() < prefix + 2)
    return truncated("it has ", bytes.size(), " bytes, fewer than a .npy header");
  const int version = static_cast<unsigned char>(bytes[prefix - 2]);
  if (version < 1 || version > 3) return invalid(" is .npy version ", version, "; versions 1 to 3 are read");
  const size_t length_bytes = version == 1 ? 2 : 4;
  const uint64_t header_bytes = LittleEndian(bytes.substr(prefix, length_bytes));
  const size_t header_begin = prefix + length_bytes;
  if (bytes.size() < header_begin || header_bytes > bytes.size() - header_begin) {
    return truncated("its header claims ", header_bytes, " bytes from byte ", header_begin, " of ",
                     bytes.size());
  }
  NpyHeaderReader reader(absl::StripAsciiWhitespace(bytes.substr(header_begin, header_bytes)), name);
  EIGSVC_ASSIGN_OR_RETURN(const NpyHeader header, reader.Read());

  const IntegerType type = ParseIntegerType(header.descr);
  if (type.bytes == 0) {
    return invalid(" has dtype '", header.descr,
                   "'; token ids must be little-endian integers: save array.astype('<i4')");
  }
  if (header.fortran_order) {
    return invalid(" is in Fortran order; save numpy.ascontiguousarray(array)");
  }
  if (header.shape.empty() || header.shape.size() > 2) {
    return invalid(" has ", header.shape.size(),
                   " dimensions; token ids must have 1 or 2 (sequences by tokens)");
  }
  const uint64_t rows = header.shape.size() == 2 ? header.shape[0] : 1;
  const uint64_t columns = header.shape.back();
  const absl::string_view data = bytes.substr(header_begin + header_bytes);
  const uint64_t available = data.size() / type.bytes;
  // Without overflow: rows * columns <= available.
  const bool fits = rows == 0 || columns <= available / rows;
  if (!fits || rows * columns * type.bytes != data.size()) {
    return truncated("shape [", rows, ", ", columns, "] of '", header.descr, "' does not fill the ",
                     data.size(), " bytes from byte ", header_begin + header_bytes);
  }
  // Zero columns bound nothing: a row of none is no sequence.
  TokenSequences sequences(columns == 0 ? 0 : rows);
  for (uint64_t row = 0; row < sequences.size(); ++row) {
    sequences[row].reserve(columns);
    for (uint64_t column = 0; column < columns; ++column) {
      const uint64_t at = (row * columns + column) * type.bytes;
      const uint64_t raw = LittleEndian(data.substr(at, type.bytes));
      const bool negative = type.is_signed && (raw >> (8 * type.bytes - 1)) != 0;
      if (negative || raw > static_cast<uint64_t>(std::numeric_limits<int32_t>::max())) {
        return invalid(": element [", row, ", ", column, "] at byte ", header_begin + header_bytes + at,
                       " is ", negative ? "negative" : "above 2147483647", "; token ids are non-negative");
      }
      sequences[row].push_back(static_cast<int32_t>(raw));
    }
  }
  return sequences;
}

}  // namespace eigsvc
