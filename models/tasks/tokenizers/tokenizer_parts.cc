#include "models/tasks/tokenizers/tokenizer_parts.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "models/base/status_macros.h"
#include "models/base/utf8.h"

namespace eigsvc {
namespace {

constexpr int kMaxDepth = 32;
constexpr int64_t kMaxId = int64_t{1} << 30;

// The token's bytes; false when it is in no spelling of bytes.
bool TokenBytes(absl::string_view text, bool as_bytes, std::string* bytes) {
  if (as_bytes) return BytesOfGpt2Text(text, bytes);
  *bytes = std::string(text);
  return true;
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseTokenizerJson(absl::string_view text, absl::string_view name) {
  using nlohmann::json;
  bool too_deep = false;
  json object;
  try {
    object = json::parse(text.begin(), text.end(), [&](int depth, json::parse_event_t, json&) {
      too_deep = too_deep || depth > kMaxDepth;
      return !too_deep;
    });
  } catch (const json::parse_error& error) {
    if (!too_deep) return absl::InvalidArgumentError(absl::StrCat(name, " is no JSON at byte ", error.byte));
  } catch (const json::exception& error) {  // a number beyond every range
    return absl::InvalidArgumentError(absl::StrCat(name, " is no JSON: ", error.what()));
  }
  if (too_deep)
    return absl::InvalidArgumentError(absl::StrCat(name, " nests deeper than ", kMaxDepth, " levels"));
  if (!object.is_object()) return absl::InvalidArgumentError(absl::StrCat(name, " holds no JSON object"));
  return object;
}

absl::Status AddVocabulary(const nlohmann::json& vocabulary, absl::string_view name, bool as_bytes,
                           BpeParts* parts) {
  if (!vocabulary.is_object() || vocabulary.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(name, " has no vocabulary {\"token\": id, ...}"));
  }
  absl::flat_hash_set<int64_t> ids;
  std::string bytes;
  for (const auto& [token, id] : vocabulary.items()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= kMaxId ||
        !ids.insert(id.get<int64_t>()).second) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": token \"", ToUtf8(token, 40),
                                                     "\" has no id of its own in [0, ", kMaxId, ")"));
    }
    parts->vocab_size = std::max(parts->vocab_size, id.get<int64_t>() + 1);
    if (TokenBytes(token, as_bytes, &bytes)) parts->vocabulary.emplace(bytes, id.get<int32_t>());
  }
  return absl::OkStatus();
}

absl::Status AddMerge(absl::string_view left, absl::string_view right, int32_t rank, bool as_bytes,
                      BpeParts* parts) {
  std::string left_bytes, right_bytes;
  const bool spelt = TokenBytes(left, as_bytes, &left_bytes) && TokenBytes(right, as_bytes, &right_bytes);
  const auto& vocabulary = parts->vocabulary;
  const auto a = vocabulary.find(left_bytes), b = vocabulary.find(right_bytes),
             whole = vocabulary.find(absl::StrCat(left_bytes, right_bytes));
  if (!spelt || a == vocabulary.end() || b == vocabulary.end() || whole == vocabulary.end()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", ToUtf8(left, 40), "\" and \"", ToUtf8(right, 40),
                                                   "\", or both together, are not in the vocabulary"));
  }
  parts->merges.Add(a->second, b->second, rank, whole->second);
  return absl::OkStatus();
}

std::optional<std::array<int32_t, 256>> ByteTokens(const BpeParts& parts) {
  std::array<int32_t, 256> ids;
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = parts.vocabulary.find(absl::StrFormat("<0x%02X>", byte));
    if (found == parts.vocabulary.end()) return std::nullopt;
    ids[byte] = found->second;
  }
  return ids;
}

}  // namespace eigsvc
