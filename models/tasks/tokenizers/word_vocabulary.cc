#include "models/tasks/tokenizers/word_vocabulary.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/base/utf8.h"

namespace eigsvc {
namespace {

constexpr absl::string_view kEndOfLine = "<eos>", kUnknown = "<unk>";

template <typename Visit>
void ForEachWord(absl::string_view text, Visit visit) {
  size_t at = 0;
  const auto space = [&](size_t i) { return absl::ascii_isspace(static_cast<unsigned char>(text[i])); };
  while (true) {
    while (at < text.size() && space(at)) ++at;
    const size_t begin = at;
    while (at < text.size() && !space(at)) ++at;
    if (at == begin) return;
    visit(text.substr(begin, at - begin));
  }
}

class WordTokenizer final : public Tokenizer {
 public:
  WordTokenizer(const std::vector<std::string>& words, int32_t unknown) : unknown_(unknown) {
    for (size_t id = 0; id < words.size(); ++id) ids_.emplace(words[id], static_cast<int32_t>(id));
  }
  int64_t vocab_size() const override { return static_cast<int64_t>(ids_.size()); }
  absl::StatusOr<std::unique_ptr<Session>> NewSession() const override {
    return std::make_unique<WordSession>(*this);
  }

 private:
  class WordSession final : public Session {
   public:
    explicit WordSession(const WordTokenizer& tokenizer) : t_(tokenizer) {}
    absl::Status Encode(absl::string_view text, std::vector<int32_t>* ids) override {
      EIGSVC_RETURN_IF_ERROR(CheckUtf8(text));
      ForEachWord(text, [&](absl::string_view word) {
        const auto found = t_.ids_.find(word);
        ids->push_back(found == t_.ids_.end() ? t_.unknown_ : found->second);
      });
      return absl::OkStatus();
    }

   private:
    const WordTokenizer& t_;
  };

  absl::flat_hash_map<std::string, int32_t> ids_;
  const int32_t unknown_;
};

}  // namespace

absl::StatusOr<WordVocabulary> WordVocabulary::Of(ByteStream& text, const StopToken* stop) {
  absl::flat_hash_map<std::string, int64_t> counts;
  LineReader lines(text);
  absl::string_view line;
  int64_t line_count = 0;
  while (true) {
    EIGSVC_ASSIGN_OR_RETURN(const bool more, lines.Next(&line));
    if (!more) break;
    ++line_count;
    if (stop != nullptr && line_count % 1024 == 0) EIGSVC_RETURN_IF_ERROR(stop->Check());
    if (absl::Status status = CheckUtf8(line); !status.ok()) {
      return Annotate(status, absl::StrCat(text.name(), ", line ", lines.number()));
    }
    ForEachWord(line, [&](absl::string_view word) { ++counts[word]; });
    if (static_cast<int64_t>(counts.size()) > kMaxWords) {
      return absl::ResourceExhaustedError(
          absl::StrCat(lines.Where(), ": more than ", kMaxWords, " different words; use another tokenizer"));
    }
  }
  counts[kEndOfLine] += line_count;
  std::vector<std::pair<int64_t, std::string>> order;
  const bool has_unknown = counts.contains(kUnknown);
  for (const auto& [word, count] : counts) order.emplace_back(-count, word);
  std::sort(order.begin(), order.end());
  if (!has_unknown) order.emplace_back(0, std::string(kUnknown));
  WordVocabulary vocabulary;
  for (auto& [count, word] : order) {
    const int32_t id = static_cast<int32_t>(vocabulary.words_.size());
    if (word == kEndOfLine) vocabulary.end_of_line_ = id;
    if (word == kUnknown) vocabulary.unknown_ = id;
    vocabulary.words_.push_back(std::move(word));
  }
  return vocabulary;
}

std::shared_ptr<const Tokenizer> WordVocabulary::tokenizer() const {
  return std::make_shared<const WordTokenizer>(words_, unknown_);
}

}  // namespace eigsvc
