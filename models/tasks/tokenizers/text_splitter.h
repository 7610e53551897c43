// TextSplitter: cuts text into the pieces that byte-pair encoding does not merge across, by a regular
// expression over Unicode (ICU). Normalisation forms are here too, for the same library's sake.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

// GPT-2's: contractions, words, numbers and other runs, each with one blank before it, and white space.
inline constexpr absl::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Immutable; share it freely.
class TextSplitter {
 public:
  // Which of the matches and of what lies between them become pieces.
  enum class Keep { kBoth, kMatches, kBetween };
  // \s and \S are Unicode's White_Space. INVALID_ARGUMENT: not a regular expression.
  static absl::StatusOr<TextSplitter> Make(absl::string_view pattern, Keep keep);

  // Splits one text after the other. One thread at a time.
  class Session {
   public:
    explicit Session(const TextSplitter& splitter);
    ~Session();
    Session(Session&&) noexcept;
    // Views into `text`, which is UTF-8. RESOURCE_EXHAUSTED when the pattern backtracks for too long.
    absl::Status Split(absl::string_view text, std::vector<absl::string_view>* pieces);

   private:
    struct Matcher;
    std::unique_ptr<Matcher> matcher_;
    Keep keep_;
  };

 private:
  struct Pattern;
  std::shared_ptr<const Pattern> pattern_;
  Keep keep_ = Keep::kBoth;
};

// "NFC", "NFD", "NFKC" or "NFKD"; FAILED_PRECONDITION for other names. The function is thread-safe.
absl::StatusOr<std::function<std::string(absl::string_view)>> UnicodeNormalisation(absl::string_view form);

}  // namespace eigsvc
