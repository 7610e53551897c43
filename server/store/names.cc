#include "server/store/names.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxComponent = 255, kMaxName = 1024;

// RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. A gRPC string field cannot carry
// anything else.
bool IsUtf8(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i++]);
    const int more = lead < 0x80 ? 0 : lead >> 5 == 6 ? 1 : lead >> 4 == 14 ? 2 : lead >> 3 == 30 ? 3 : -1;
    if (more < 0 || text.size() - i < static_cast<size_t>(more)) return false;
    uint32_t point = more == 0 ? lead : lead & (0x3f >> more);
    for (int k = 0; k < more; ++k) {
      const auto next = static_cast<unsigned char>(text[i++]);
      if (next >> 6 != 2) return false;
      point = point << 6 | (next & 0x3f);
    }
    static constexpr uint32_t kSmallest[] = {0, 0x80, 0x800, 0x10000};
    if (point < kSmallest[more] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return false;
  }
  return true;
}

absl::Status BadName(absl::string_view name, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("name ", Quoted(name), " ", why));
}

}  // namespace

std::string Quoted(absl::string_view name) {
  constexpr size_t kShown = 200;
  return absl::StrCat("\"", absl::CHexEscape(name.substr(0, kShown)), name.size() > kShown ? "..." : "",
                      "\"");
}

absl::Status CheckBareName(absl::string_view name) {
  const bool plain = std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
  if (name.empty() || name.size() > kMaxComponent || !plain || name.front() == '.') {
    return BadName(
        name, "is not allowed; use at most 255 letters, digits, '.', '_' and '-', not starting with '.'");
  }
  return absl::OkStatus();
}

absl::Status CheckRelativeName(absl::string_view name) {
  if (name.empty()) return BadName(name, "is empty");
  if (name.size() > kMaxName) return BadName(name, absl::StrCat("is longer than ", kMaxName, " bytes"));
  if (name.front() == '/') return BadName(name, "is an absolute path; give it relative to the root");
  if (!IsUtf8(name)) return BadName(name, "is not UTF-8");
  if (absl::StrContains(name, '\\') || std::any_of(name.begin(), name.end(), absl::ascii_iscntrl)) {
    return BadName(name, "holds a control character or a backslash");
  }
  for (absl::string_view component : absl::StrSplit(name, '/')) {
    if (component.empty() || component == "." || component == "..") {
      return BadName(name, "holds an empty, \".\" or \"..\" component");
    }
    if (component.size() > kMaxComponent) return BadName(name, "holds a component longer than 255 bytes");
  }
  return absl::OkStatus();
}

absl::Status CheckDigest(absl::string_view sha256) {
  const bool digits = std::all_of(sha256.begin(), sha256.end(), [](unsigned char c) {
    return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
  });
  if (sha256.size() != 64 || !digits) {
    return absl::InvalidArgumentError(
        absl::StrCat("SHA-256 ", Quoted(sha256), " is not allowed; give 64 lower-case hexadecimal digits"));
  }
  return absl::OkStatus();
}

}  // namespace eigsvc
