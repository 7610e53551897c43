// Style: whether text may be coloured and which glyphs the locale can show.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace eigsvc::cli {

enum class Paint { kNone, kBold, kDim, kRed, kGreen, kBlue, kCyan };

struct Style {
  bool color = false;
  bool utf8 = false;
  int columns = 100;

  // `text` in the ANSI colour, or as it is.
  std::string Apply(Paint paint, absl::string_view text) const;
  // The first where the locale is UTF-8, else the second.
  absl::string_view Pick(absl::string_view unicode, absl::string_view ascii) const {
    return utf8 ? unicode : ascii;
  }
};

// Columns `text` takes: code points (every glyph used here is one column wide). `text` has no colour codes.
int DisplayWidth(absl::string_view text);
// Padded with spaces to `width` columns.
std::string PadRight(absl::string_view text, int width);
std::string PadLeft(absl::string_view text, int width);
// Control characters, which a hostile checkpoint's names could hold, as '?': nothing reaches the terminal
// raw.
std::string Printable(absl::string_view text);

}  // namespace eigsvc::cli
