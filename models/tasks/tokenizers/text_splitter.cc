#include "models/tasks/tokenizers/text_splitter.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/regex.h>
#include <unicode/utext.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace eigsvc {
namespace {

// A pattern from a file may backtrack for ever. ICU counts its time in units of about a millisecond.
constexpr int32_t kMaxTime = 500, kMaxStackBytes = 8 << 20;

// ICU's \s lacks two of Unicode's White_Space; the libraries that tokenizers are made with have them all.
std::string WithUnicodeSpace(absl::string_view pattern) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '\\' || i + 1 == pattern.size()) {
      out.push_back(pattern[i]);
      continue;
    }
    const char escaped = pattern[++i];
    if (escaped == 's') {
      out.append("\\p{White_Space}");
    } else if (escaped == 'S') {
      out.append("\\P{White_Space}");
    } else {
      out.push_back('\\');
      out.push_back(escaped);
    }
  }
  return out;
}

}  // namespace

struct TextSplitter::Pattern {
  std::unique_ptr<icu::RegexPattern> compiled;
};

struct TextSplitter::Session::Matcher {
  ~Matcher() { utext_close(&text); }
  std::shared_ptr<const Pattern> pattern;  // the matcher refers to it
  std::unique_ptr<icu::RegexMatcher> icu;
  UText text = UTEXT_INITIALIZER;
};

absl::StatusOr<TextSplitter> TextSplitter::Make(absl::string_view pattern, Keep keep) {
  UErrorCode error = U_ZERO_ERROR;
  UParseError where;
  const std::string adapted = WithUnicodeSpace(pattern);
  auto compiled = std::make_shared<Pattern>();
  compiled->compiled.reset(icu::RegexPattern::compile(
      icu::UnicodeString::fromUTF8(icu::StringPiece(adapted.data(), static_cast<int32_t>(adapted.size()))), 0,
      where, error));
  if (U_FAILURE(error)) {
    return absl::InvalidArgumentError(absl::StrCat("the pattern \"", pattern.substr(0, 200),
                                                   "\" is no regular expression (", u_errorName(error),
                                                   " at character ", where.offset, ")"));
  }
  TextSplitter splitter;
  splitter.pattern_ = std::move(compiled);
  splitter.keep_ = keep;
  return splitter;
}

TextSplitter::Session::Session(const TextSplitter& splitter)
    : matcher_(std::make_unique<Matcher>()), keep_(splitter.keep_) {
  UErrorCode error = U_ZERO_ERROR;
  matcher_->pattern = splitter.pattern_;
  matcher_->icu.reset(splitter.pattern_->compiled->matcher(error));
  if (matcher_->icu == nullptr) return;
  matcher_->icu->setTimeLimit(kMaxTime, error);
  matcher_->icu->setStackLimit(kMaxStackBytes, error);
}
TextSplitter::Session::~Session() = default;
TextSplitter::Session::Session(Session&&) noexcept = default;

absl::Status TextSplitter::Session::Split(absl::string_view text, std::vector<absl::string_view>* pieces) {
  UErrorCode error = U_ZERO_ERROR;
  if (matcher_->icu == nullptr) return absl::ResourceExhaustedError("no memory to split text");
  icu::RegexMatcher& matcher = *matcher_->icu;
  utext_openUTF8(&matcher_->text, text.data(), static_cast<int64_t>(text.size()), &error);
  matcher.reset(&matcher_->text);
  size_t done = 0;
  const auto keep = [&](size_t begin, size_t end) {
    if (end > begin) pieces->push_back(text.substr(begin, end - begin));
  };
  while (U_SUCCESS(error) && matcher.find(error)) {
    const auto begin = static_cast<size_t>(matcher.start64(error)),
               end = static_cast<size_t>(matcher.end64(error));
    if (keep_ != Keep::kMatches) keep(done, begin);
    if (keep_ != Keep::kBetween) keep(begin, end);
    done = end;
  }
  if (U_FAILURE(error)) {
    return absl::ResourceExhaustedError(absl::StrCat("the tokenizer's pattern gave up on a text of ",
                                                     text.size(), " bytes (", u_errorName(error),
                                                     "); it backtracks for too long"));
  }
  if (keep_ != Keep::kMatches) keep(done, text.size());
  return absl::OkStatus();
}

absl::StatusOr<std::function<std::string(absl::string_view)>> UnicodeNormalisation(absl::string_view form) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* normaliser = nullptr;
  if (form == "NFC") normaliser = icu::Normalizer2::getNFCInstance(error);
  if (form == "NFD") normaliser = icu::Normalizer2::getNFDInstance(error);
  if (form == "NFKC") normaliser = icu::Normalizer2::getNFKCInstance(error);
  if (form == "NFKD") normaliser = icu::Normalizer2::getNFKDInstance(error);
  if (normaliser == nullptr || U_FAILURE(error)) {
    return absl::FailedPreconditionError(
        absl::StrCat("normalisation \"", form.substr(0, 64), "\" is not read"));
  }
  return [normaliser](absl::string_view text) {
    std::string out;
    icu::StringByteSink<std::string> sink(&out);
    UErrorCode ignored = U_ZERO_ERROR;  // ill-formed text, which was refused before
    normaliser->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())), sink,
                              nullptr, ignored);
    return out;
  };
}

}  // namespace eigsvc
