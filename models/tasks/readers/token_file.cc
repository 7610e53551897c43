#include "models/tasks/readers/token_file.h"

#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

// Reads integers, brackets and commas; knows where it is, for messages.
class TokenScanner {
 public:
  TokenScanner(absl::string_view text, absl::string_view name) : text_(text), name_(name) {}

  void SkipSpace() {
    while (at_ < text_.size() && absl::ascii_isspace(text_[at_])) ++at_;
  }
  bool AtEnd() const { return at_ == text_.size(); }
  // Takes `wanted` if it is next.
  bool Take(char wanted) {
    SkipSpace();
    if (AtEnd() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }

  absl::StatusOr<int32_t> Token() {
    SkipSpace();
    const size_t start = at_;
    int64_t value = 0;
    while (at_ < text_.size() && absl::ascii_isdigit(text_[at_])) {
      value = value * 10 + (text_[at_] - '0');
      if (value > std::numeric_limits<int32_t>::max()) return Error(start, "a token id above 2147483647");
      ++at_;
    }
    const bool ends = AtEnd() || absl::ascii_isspace(text_[at_]) || text_[at_] == ',' || text_[at_] == ']';
    if (at_ == start || !ends) return Error(start, "expected a token id, a non-negative integer");
    return static_cast<int32_t>(value);
  }

  absl::Status Error(absl::string_view what) const { return Error(at_, what); }
  absl::Status Error(size_t at, absl::string_view what) const {
    size_t line = 1, line_start = 0;
    for (size_t i = 0; i < at; ++i) {
      if (text_[i] != '\n') continue;
      ++line;
      line_start = i + 1;
    }
    size_t end = at;
    while (end < text_.size() && end < at + 24 && absl::ascii_isgraph(text_[end])) ++end;
    const absl::string_view found = text_.substr(at, end - at);
    return absl::InvalidArgumentError(
        absl::StrCat(name_, ", line ", line, ", column ", at - line_start + 1, " (byte ", at, "): ", what,
                     found.empty() ? "" : absl::StrCat("; found \"", found, "\"")));
  }

 private:
  const absl::string_view text_, name_;
  size_t at_ = 0;
};

// After '[': ids up to and with ']'.
absl::Status ReadList(TokenScanner& scanner, std::vector<int32_t>& tokens) {
  if (scanner.Take(']')) return absl::OkStatus();
  do {
    EIGSVC_ASSIGN_OR_RETURN(const int32_t token, scanner.Token());
    tokens.push_back(token);
  } while (scanner.Take(','));
  return scanner.Take(']') ? absl::OkStatus() : scanner.Error("expected ',' or ']'");
}

// JSON cut down to what is allowed: a list of ids, or a list of such lists. Its own scanner, because a DOM of
// a gigabyte of ids is some twenty gigabytes, and because a mistake is then named by line and column.
absl::StatusOr<TokenSequences> ParseJsonTokens(absl::string_view text, absl::string_view name) {
  TokenScanner scanner(text, name);
  TokenSequences sequences;
  scanner.Take('[');
  if (scanner.Take('[')) {
    do {
      if (!sequences.empty() && !scanner.Take('['))
        return scanner.Error("expected '[': every entry must be a list");
      sequences.emplace_back();
      EIGSVC_RETURN_IF_ERROR(ReadList(scanner, sequences.back()));
    } while (scanner.Take(','));
    if (!scanner.Take(']')) return scanner.Error("expected ',' or ']'");
  } else {
    sequences.emplace_back();
    EIGSVC_RETURN_IF_ERROR(ReadList(scanner, sequences.back()));
  }
  scanner.SkipSpace();
  if (!scanner.AtEnd()) return scanner.Error("expected the end of the file");
  return sequences;
}

absl::StatusOr<TokenSequences> ParseTextTokens(absl::string_view text, absl::string_view name) {
  TokenScanner scanner(text, name);
  TokenSequences sequences(1);
  for (scanner.SkipSpace(); !scanner.AtEnd(); scanner.SkipSpace()) {
    EIGSVC_ASSIGN_OR_RETURN(const int32_t token, scanner.Token());
    // What Token() lets stand after an id in a list must not separate ids here.
    if (scanner.Take(',') || scanner.Take(']')) {
      return scanner.Error(
          "ids in a text file are separated by white space only; a JSON list starts with '['");
    }
    sequences[0].push_back(token);
  }
  return sequences;
}

}  // namespace

absl::StatusOr<TokenSequences> ParseTokens(absl::string_view bytes, absl::string_view name) {
  absl::string_view text = absl::StripLeadingAsciiWhitespace(bytes);
  if (text.empty())
    return absl::InvalidArgumentError(absl::StrCat(name, " is empty; it must hold token ids"));
  if (absl::StartsWith(bytes, kNpyMagic)) return ParseNpyTokens(bytes, name);
  if (text[0] == '[') return ParseJsonTokens(bytes, name);
  return ParseTextTokens(bytes, name);
}

absl::StatusOr<TokenSequences> ReadTokenFile(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return absl::NotFoundError(absl::StrCat("no data file ", path));
  if (!std::filesystem::is_regular_file(status)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not a file; --data takes a .json, .npy or .txt file"));
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (file == nullptr) return absl::PermissionDeniedError(absl::StrCat("cannot open data file ", path));
  std::string bytes;
  constexpr size_t kChunk = size_t{1} << 20;
  while (true) {
    const size_t held = bytes.size();
    bytes.resize(held + kChunk);
    const size_t got = std::fread(bytes.data() + held, 1, kChunk, file.get());
    bytes.resize(held + got);
    if (static_cast<int64_t>(bytes.size()) > kMaxTokenFileBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat(path, " is larger than ", kMaxTokenFileBytes, " bytes; split it"));
    }
    if (got < kChunk) break;
  }
  if (std::ferror(file.get())) return absl::DataLossError(absl::StrCat("reading ", path, " failed"));
  return ParseTokens(bytes, path);
}

}  // namespace eigsvc
