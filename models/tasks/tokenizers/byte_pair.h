// Byte-pair encoding (Gage 1994; Sennrich et al., arXiv 1508.07909): of all neighbours that may merge, the
// best rank does, until none may. Thread rule: immutable once filled; share it freely.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

class BytePairMerges {
 public:
  void Add(int32_t left, int32_t right, int32_t rank, int32_t merged) {
    merges_[Key(left, right)] = {rank, merged};
  }
  // Lowest rank first, the leftmost of equals. O(n log n), whatever the text.
  void Apply(std::vector<int32_t>* ids) const;

 private:
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  struct Merge {
    int32_t rank, merged;
  };
  absl::flat_hash_map<uint64_t, Merge> merges_;
};

// GPT-2 writes a byte as a printable character: most stand for themselves, the rest for U+0100 and after, in
// order. False when `text` holds a character that stands for no byte.
bool BytesOfGpt2Text(absl::string_view text, std::string* bytes);

}  // namespace eigsvc
