// Page tokens: opaque to clients, and only those this server gave are accepted.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

// Thread-safe after construction.
class PageTokens {
 public:
  PageTokens();  // draws a secret: tokens die with the object

  // `list` names the list, so that a token of one is refused by another; `position` is where its next page
  // starts.
  std::string Make(absl::string_view list, absl::string_view position) const;
  // The position. INVALID_ARGUMENT for anything Make did not return.
  absl::StatusOr<std::string> Read(absl::string_view list, const std::string& token) const;

 private:
  std::string Seal(absl::string_view list, absl::string_view position) const;
  std::string secret_;
};

// 0 stands for 50. INVALID_ARGUMENT outside [0, 1000].
absl::StatusOr<int32_t> PageSize(int32_t requested);

}  // namespace eigsvc
