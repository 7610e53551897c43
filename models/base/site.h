// Site: where a transition lives. DESIGN words: (layer, mixer, unit kind, unit index).
#pragma once

#include <compare>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace eigsvc {

// What one unit of a site is: head for attention and Mamba-2, channel for S4 and Mamba-1, layer for LRU and
// LSTM.
enum class UnitKind { kHead, kChannel, kLayer };

inline absl::string_view UnitKindName(UnitKind kind) {
  switch (kind) {
    case UnitKind::kHead:
      return "head";
    case UnitKind::kChannel:
      return "channel";
    case UnitKind::kLayer:
      return "layer";
  }
  return "head";
}

struct Site {
  int layer = 0;      // 0-based
  std::string mixer;  // "attention", "mamba2"; unique within a layer
  UnitKind unit_kind = UnitKind::kHead;
  int unit = 0;  // 0-based index of the unit in its layer

  auto operator<=>(const Site&) const = default;
};

}  // namespace eigsvc
