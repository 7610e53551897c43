// llama2.c's tokenizer.bin: the longest piece's length, then for each id a score, a length and the piece,
// with SentencePiece's blank (U+2581) already written as one. Encoding is that program's: a blank before the
// text, characters, bytes where a character is no piece, then always the neighbours whose union scores best.
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/tasks/tokenizers/bpe_tokenizer.h"
#include "models/tasks/tokenizers/tokenizer_parts.h"

namespace eigsvc {
namespace {

constexpr int32_t kFirstPiece = 3;  // 0 unknown, 1 begin, 2 end of a text
constexpr int32_t kMaxPieceBytes = 1 << 16;

struct Piece {
  std::string text;
  float score = 0;
};

absl::StatusOr<std::vector<Piece>> ReadPieces(absl::string_view bytes, absl::string_view name) {
  size_t at = 0;
  const auto take = [&](void* into, size_t size) {
    if (bytes.size() - at < size) return false;
    std::memcpy(into, bytes.data() + at, size);
    at += size;
    return true;
  };
  const auto cut_short = [&] {
    return absl::DataLossError(absl::StrCat(name, " ends in the middle of a piece at byte ", at));
  };
  int32_t longest = 0;
  if (!take(&longest, sizeof(longest))) return cut_short();
  std::vector<Piece> pieces;
  while (at < bytes.size()) {
    Piece piece;
    int32_t length = 0;
    if (!take(&piece.score, sizeof(piece.score)) || !take(&length, sizeof(length))) return cut_short();
    if (length < 0 || length > kMaxPieceBytes || !std::isfinite(piece.score)) {
      return absl::InvalidArgumentError(absl::StrCat(name, ", byte ", at - 8, ": piece ", pieces.size(),
                                                     " has length ", length, " and score ", piece.score,
                                                     "; this is no llama2.c tokenizer"));
    }
    piece.text.resize(static_cast<size_t>(length));
    if (!take(piece.text.data(), piece.text.size())) return cut_short();
    pieces.push_back(std::move(piece));
  }
  if (pieces.size() <= kFirstPiece) return absl::InvalidArgumentError(absl::StrCat(name, " holds no pieces"));
  return pieces;
}

bool IsByteToken(absl::string_view text) {
  return text.size() == 6 && absl::StartsWith(text, "<0x") && text[5] == '>';
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> ReadSentencePieceBin(absl::string_view bytes,
                                                                      absl::string_view name) {
  EIGSVC_ASSIGN_OR_RETURN(const std::vector<Piece> pieces, ReadPieces(bytes, name));
  BpeParts parts;
  parts.bytes = false;
  parts.vocab_size = static_cast<int64_t>(pieces.size());
  std::map<float, int32_t, std::greater<>> ranks;
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (id >= kFirstPiece) parts.vocabulary.emplace(pieces[id].text, static_cast<int32_t>(id));
    ranks[pieces[id].score] = 0;
  }
  int32_t next_rank = 0;
  for (auto& [score, rank] : ranks) rank = next_rank++;
  parts.byte_tokens = ByteTokens(parts);
  if (!parts.byte_tokens) {
    return absl::FailedPreconditionError(absl::StrCat(
        name, " lacks the 256 byte pieces <0x00> to <0xFF>, so that some text could not be spelt"));
  }
  for (const auto& [text, id] : parts.vocabulary) {
    if (IsByteToken(text)) continue;
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const auto left = parts.vocabulary.find(absl::string_view(text).substr(0, cut));
      const auto right = parts.vocabulary.find(absl::string_view(text).substr(cut));
      if (left == parts.vocabulary.end() || right == parts.vocabulary.end()) continue;
      parts.merges.Add(left->second, right->second, ranks[pieces[id].score], id);
    }
  }
  parts.normalisers.push_back(
      [](absl::string_view text) { return text.empty() ? std::string() : absl::StrCat(" ", text); });
  return MakeBpeTokenizer(std::move(parts), name);
}

}  // namespace eigsvc
