#include "client/cli/style.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace eigsvc::cli {

std::string Style::Apply(Paint paint, absl::string_view text) const {
  if (!color || paint == Paint::kNone || text.empty()) return std::string(text);
  absl::string_view code;
  switch (paint) {
    case Paint::kNone:
      break;
    case Paint::kBold:
      code = "1";
      break;
    case Paint::kDim:
      code = "2";
      break;
    case Paint::kRed:
      code = "31";
      break;
    case Paint::kGreen:
      code = "32";
      break;
    case Paint::kBlue:
      code = "34";
      break;
    case Paint::kCyan:
      code = "36";
      break;
  }
  return absl::StrCat("\x1b[", code, "m", text, "\x1b[0m");
}

int DisplayWidth(absl::string_view text) {
  // UTF-8 continuation bytes are 10xxxxxx.
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string PadRight(absl::string_view text, int width) {
  return absl::StrCat(text, std::string(std::max(0, width - DisplayWidth(text)), ' '));
}

std::string PadLeft(absl::string_view text, int width) {
  return absl::StrCat(std::string(std::max(0, width - DisplayWidth(text)), ' '), text);
}

std::string Printable(absl::string_view text) {
  std::string clean(text);
  for (char& c : clean) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return clean;
}

}  // namespace eigsvc::cli
