#include "models/base/utf8.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace eigsvc {

size_t CharacterBytes(absl::string_view text) {  // Unicode 15, table 3-7
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  const auto within = [&](size_t i, uint8_t low, uint8_t high) { return byte(i) >= low && byte(i) <= high; };
  const auto tail = [&](size_t i) { return within(i, 0x80, 0xBF); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return text.empty() ? 0 : 1;
  if (lead >= 0xC2 && lead <= 0xDF) return tail(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const uint8_t low = lead == 0xE0 ? 0xA0 : 0x80;   // no overlong forms
    const uint8_t high = lead == 0xED ? 0x9F : 0xBF;  // no surrogates
    return within(1, low, high) && tail(2) ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const uint8_t low = lead == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = lead == 0xF4 ? 0x8F : 0xBF;  // nothing beyond U+10FFFF
    return within(1, low, high) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

absl::Status CheckUtf8(absl::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t size = CharacterBytes(text.substr(at));
    if (size == 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "byte ", at, ": 0x", absl::Hex(static_cast<uint8_t>(text[at]), absl::kZeroPad2), " is no UTF-8"));
    }
    at += size;
  }
  return absl::OkStatus();
}

std::string ToUtf8(absl::string_view text, size_t max_bytes) {
  static constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";
  static constexpr absl::string_view kMore = "...";
  std::string out;
  size_t cut = 0;  // where `out` can end and still leave room for kMore
  while (!text.empty()) {
    const size_t size = CharacterBytes(text);
    const absl::string_view character = size > 0 ? text.substr(0, size) : kReplacement;
    if (out.size() + character.size() > max_bytes) {
      out.resize(cut);
      if (max_bytes >= kMore.size()) out.append(kMore.data(), kMore.size());
      return out;
    }
    out.append(character.data(), character.size());
    if (out.size() + kMore.size() <= max_bytes) cut = out.size();
    text.remove_prefix(size > 0 ? size : 1);
  }
  return out;
}

}  // namespace eigsvc
