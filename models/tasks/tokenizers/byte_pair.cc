#include "models/tasks/tokenizers/byte_pair.h"

#include <array>
#include <queue>
#include <tuple>

#include "models/base/utf8.h"

namespace eigsvc {
namespace {

// By code point, below kEnd: the byte it stands for, or -1.
constexpr int kEnd = 256 + 68;
constexpr std::array<int16_t, kEnd> MakeByteTable() {
  std::array<int16_t, kEnd> table{};
  for (int16_t& entry : table) entry = -1;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    table[itself ? byte : next++] = static_cast<int16_t>(byte);
  }
  return table;
}
constexpr std::array<int16_t, kEnd> kByteOf = MakeByteTable();

}  // namespace

void BytePairMerges::Apply(std::vector<int32_t>* ids) const {
  const int32_t size = static_cast<int32_t>(ids->size());
  if (size < 2) return;
  constexpr int32_t kNone = -1;
  // A doubly linked list over positions: a merge keeps the left one and drops the right one.
  std::vector<int32_t> next(size), previous(size);
  struct Candidate {
    int32_t rank, left, left_id, right_id, merged;
    bool operator>(const Candidate& other) const {
      return std::tie(rank, left) > std::tie(other.rank, other.left);
    }
  };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](int32_t left) {
    if (left == kNone || next[left] == kNone) return;
    const int32_t left_id = (*ids)[left], right_id = (*ids)[next[left]];
    const auto found = merges_.find(Key(left_id, right_id));
    if (found != merges_.end())
      queue.push({found->second.rank, left, left_id, right_id, found->second.merged});
  };
  for (int32_t i = 0; i < size; ++i) {
    next[i] = i + 1 < size ? i + 1 : kNone;
    previous[i] = i - 1;
  }
  for (int32_t i = 0; i < size; ++i) consider(i);
  constexpr int32_t kDropped = -2;
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    const int32_t left = best.left, right = next[left];
    // One of the two has merged with something else since.
    if (right == kDropped || right == kNone || (*ids)[left] != best.left_id || (*ids)[right] != best.right_id)
      continue;
    (*ids)[left] = best.merged;
    next[left] = next[right];
    if (next[left] != kNone) previous[next[left]] = left;
    next[right] = kDropped;
    consider(previous[left]);
    consider(left);
  }
  std::vector<int32_t> merged;
  for (int32_t i = 0; i != kNone; i = next[i]) merged.push_back((*ids)[i]);
  *ids = std::move(merged);
}

bool BytesOfGpt2Text(absl::string_view text, std::string* bytes) {
  bytes->clear();
  while (!text.empty()) {
    const size_t size = CharacterBytes(text);
    int point = -1;
    if (size == 1) point = text[0];
    if (size == 2) point = (text[0] & 0x1F) << 6 | (text[1] & 0x3F);
    if (point < 0 || point >= kEnd || kByteOf[point] < 0) return false;
    bytes->push_back(static_cast<char>(kByteOf[point]));
    text.remove_prefix(size);
  }
  return true;
}

}  // namespace eigsvc
