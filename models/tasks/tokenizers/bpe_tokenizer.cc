#include "models/tasks/tokenizers/bpe_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/base/utf8.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxCachedPieces = size_t{1} << 16, kMaxCachedBytes = 64;

// Added tokens by their first byte, longest first: of those that start at one place the longest wins.
class AddedTokens {
 public:
  void Add(const AddedToken& token) {
    if (token.text.empty()) return;
    std::vector<AddedToken>& same = by_first_[static_cast<uint8_t>(token.text[0])];
    same.push_back(token);
    std::stable_sort(same.begin(), same.end(),
                     [](const AddedToken& a, const AddedToken& b) { return a.text.size() > b.text.size(); });
  }
  // The first one in `text` from `from` on; null: none.
  const AddedToken* Find(absl::string_view text, size_t from, size_t* at) const {
    for (*at = from; *at < text.size(); ++*at) {
      for (const AddedToken& token : by_first_[static_cast<uint8_t>(text[*at])]) {
        if (absl::StartsWith(text.substr(*at), token.text)) return &token;
      }
    }
    return nullptr;
  }

 private:
  std::array<std::vector<AddedToken>, 256> by_first_;
};

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(BpeParts parts, absl::string_view name) : parts_(std::move(parts)), name_(name) {
    size_ = parts_.vocab_size;
    for (AddedToken token : parts_.added) {
      size_ = std::max(size_, int64_t{token.id} + 1);
      if (token.normalised) token.text = Normalised(token.text);
      (token.normalised ? added_after_ : added_before_).Add(token);
    }
    for (int byte = 0; byte < 256; ++byte) {
      const auto found = parts_.vocabulary.find(std::string(1, static_cast<char>(byte)));
      byte_ids_[byte] = found == parts_.vocabulary.end() ? -1 : found->second;
    }
  }

  int64_t vocab_size() const override { return size_; }
  absl::StatusOr<std::unique_ptr<Session>> NewSession() const override {
    return std::make_unique<BpeSession>(*this);
  }

 private:
  class BpeSession final : public Session {
   public:
    explicit BpeSession(const BpeTokenizer& tokenizer) : t_(tokenizer) {
      for (const TextSplitter& splitter : t_.parts_.splitters) splitters_.emplace_back(splitter);
    }

    absl::Status Encode(absl::string_view text, std::vector<int32_t>* ids) override {
      EIGSVC_RETURN_IF_ERROR(CheckUtf8(text));
      return BetweenTokens(t_.added_before_, text, ids, [&](absl::string_view part) {
        const std::string normalised = t_.Normalised(part);
        return BetweenTokens(t_.added_after_, normalised, ids,
                             [&](absl::string_view plain) { return EncodePlain(plain, ids); });
      });
    }

   private:
    template <typename Plain>
    absl::Status BetweenTokens(const AddedTokens& added, absl::string_view text, std::vector<int32_t>* ids,
                               Plain plain) {
      size_t done = 0, at = 0;
      while (const AddedToken* token = added.Find(text, done, &at)) {
        if (at > done) EIGSVC_RETURN_IF_ERROR(plain(text.substr(done, at - done)));
        ids->push_back(token->id);
        done = at + token->text.size();
      }
      return done < text.size() ? plain(text.substr(done)) : absl::OkStatus();
    }

    absl::Status EncodePlain(absl::string_view text, std::vector<int32_t>* ids) {
      std::string blanked;
      if (t_.parts_.blank_first && !absl::StartsWith(text, " ")) {
        blanked = absl::StrCat(" ", text);
        text = blanked;
      }
      std::vector<absl::string_view> pieces = {text}, finer;
      for (TextSplitter::Session& splitter : splitters_) {
        finer.clear();
        for (const absl::string_view piece : pieces) EIGSVC_RETURN_IF_ERROR(splitter.Split(piece, &finer));
        pieces.swap(finer);
      }
      for (const absl::string_view piece : pieces) EIGSVC_RETURN_IF_ERROR(EncodePiece(piece, ids));
      return absl::OkStatus();
    }

    absl::Status EncodePiece(absl::string_view piece, std::vector<int32_t>* ids) {
      if (const auto found = cache_.find(piece); found != cache_.end()) {
        ids->insert(ids->end(), found->second.begin(), found->second.end());
        return absl::OkStatus();
      }
      std::vector<int32_t> merged;
      if (t_.parts_.whole_pieces) {
        const auto whole = t_.parts_.vocabulary.find(piece);
        if (whole != t_.parts_.vocabulary.end()) merged = {whole->second};
      }
      if (merged.empty()) {
        EIGSVC_RETURN_IF_ERROR(t_.parts_.bytes ? SpellBytes(piece, &merged)
                                               : SpellCharacters(piece, &merged));
        t_.parts_.merges.Apply(&merged);
      }
      ids->insert(ids->end(), merged.begin(), merged.end());
      if (piece.size() <= kMaxCachedBytes) {
        if (cache_.size() == kMaxCachedPieces) cache_.clear();
        cache_.emplace(piece, std::move(merged));
      }
      return absl::OkStatus();
    }

    absl::Status SpellBytes(absl::string_view piece, std::vector<int32_t>* symbols) const {
      for (const char byte : piece) {
        const int32_t id = t_.byte_ids_[static_cast<uint8_t>(byte)];
        if (id < 0) return CannotSpell(piece);
        symbols->push_back(id);
      }
      return absl::OkStatus();
    }

    absl::Status SpellCharacters(absl::string_view piece, std::vector<int32_t>* symbols) const {
      bool after_unknown = false;
      while (!piece.empty()) {
        const absl::string_view character = piece.substr(0, CharacterBytes(piece));
        const auto found = t_.parts_.vocabulary.find(character);
        const bool known = found != t_.parts_.vocabulary.end();
        if (known) {
          symbols->push_back(found->second);
        } else if (t_.parts_.byte_tokens) {
          for (const char byte : character)
            symbols->push_back((*t_.parts_.byte_tokens)[static_cast<uint8_t>(byte)]);
        } else if (t_.parts_.unknown) {
          if (!(after_unknown && t_.parts_.join_unknown)) symbols->push_back(*t_.parts_.unknown);
        } else {
          return CannotSpell(character);
        }
        after_unknown = !known && !t_.parts_.byte_tokens;
        piece.remove_prefix(character.size());
      }
      return absl::OkStatus();
    }

    absl::Status CannotSpell(absl::string_view text) const {
      return absl::InvalidArgumentError(
          absl::StrCat("the vocabulary of ", t_.name_, " cannot spell \"", ToUtf8(text, 40), "\""));
    }

    const BpeTokenizer& t_;
    std::vector<TextSplitter::Session> splitters_;
    absl::flat_hash_map<std::string, std::vector<int32_t>> cache_;
  };

  std::string Normalised(absl::string_view text) const {
    std::string out(text);
    for (const auto& normaliser : parts_.normalisers) out = normaliser(out);
    return out;
  }

  const BpeParts parts_;
  const std::string name_;
  AddedTokens added_before_, added_after_;
  std::array<int32_t, 256> byte_ids_;
  int64_t size_ = 0;
};

}  // namespace

std::shared_ptr<const Tokenizer> MakeBpeTokenizer(BpeParts parts, absl::string_view name) {
  return std::make_shared<const BpeTokenizer>(std::move(parts), name);
}

}  // namespace eigsvc
