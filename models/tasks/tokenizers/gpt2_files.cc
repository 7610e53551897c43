// OpenAI's GPT-2 tokenizer: the vocabulary as a JSON object, the merges a line each, best first.
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/tasks/tokenizers/bpe_tokenizer.h"
#include "models/tasks/tokenizers/tokenizer_parts.h"

namespace eigsvc {

absl::StatusOr<std::shared_ptr<const Tokenizer>> ReadGpt2Tokenizer(absl::string_view vocab_json,
                                                                   absl::string_view merges_txt,
                                                                   absl::string_view name) {
  BpeParts parts;
  EIGSVC_ASSIGN_OR_RETURN(const nlohmann::json vocabulary, ParseTokenizerJson(vocab_json, name));
  EIGSVC_RETURN_IF_ERROR(AddVocabulary(vocabulary, name, /*as_bytes=*/true, &parts));
  int64_t line_number = 0;
  int32_t rank = 0;
  for (absl::string_view line : absl::StrSplit(merges_txt, '\n')) {
    ++line_number;
    absl::ConsumeSuffix(&line, "\r");
    if (line.empty() || (line_number == 1 && absl::StartsWith(line, "#version"))) continue;
    const std::vector<absl::string_view> halves = absl::StrSplit(line, ' ');
    if (halves.size() != 2) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ", line ", line_number, " of the merges: two halves separated by a blank are wanted"));
    }
    EIGSVC_RETURN_IF_ERROR(Annotate(AddMerge(halves[0], halves[1], rank++, /*as_bytes=*/true, &parts),
                                    absl::StrCat(name, ", line ", line_number, " of the merges")));
  }
  if (rank == 0) return absl::InvalidArgumentError(absl::StrCat(name, " has no merges"));
  EIGSVC_ASSIGN_OR_RETURN(TextSplitter splitter, TextSplitter::Make(kGpt2Pattern, TextSplitter::Keep::kBoth));
  parts.splitters.push_back(std::move(splitter));
  return MakeBpeTokenizer(std::move(parts), name);
}

}  // namespace eigsvc
