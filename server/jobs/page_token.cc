#include "server/jobs/page_token.h"

#include <random>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "models/base/sha256.h"

namespace eigsvc {

PageTokens::PageTokens() {
  std::random_device entropy;
  for (int i = 0; i < 4; ++i) absl::StrAppend(&secret_, absl::Hex(entropy(), absl::kZeroPad8));
}

std::string PageTokens::Seal(absl::string_view list, absl::string_view position) const {
  // Secret at both ends and lengths before the parts: no two (list, position) pairs hash the same bytes.
  const std::string text =
      absl::StrCat(secret_, list.size(), ":", list, position.size(), ":", position, secret_);
  return Sha256::Of({reinterpret_cast<const std::byte*>(text.data()), text.size()}).substr(0, 16);
}

std::string PageTokens::Make(absl::string_view list, absl::string_view position) const {
  return absl::WebSafeBase64Escape(absl::StrCat(Seal(list, position), position));
}

absl::StatusOr<std::string> PageTokens::Read(absl::string_view list, const std::string& token) const {
  std::string text;
  if (token.size() <= 4096 && absl::WebSafeBase64Unescape(token, &text) && text.size() >= 16) {
    std::string position = text.substr(16);
    // Unescape ignores white space and padding; only the exact spelling is a token.
    if (Make(list, position) == token) return position;
  }
  return absl::InvalidArgumentError(
      "page_token is not one this server gave for this list; start again with an empty one");
}

absl::StatusOr<int32_t> PageSize(int32_t requested) {
  if (requested < 0 || requested > 1000) {
    return absl::InvalidArgumentError(
        absl::StrCat("page_size ", requested, " is not in [0, 1000]; 0 stands for 50"));
  }
  return requested == 0 ? 50 : requested;
}

}  // namespace eigsvc
