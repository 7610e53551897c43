// Hugging Face's tokenizer.json, as far as byte-pair language models use it. What is not read is refused by
// name: a tokenizer that is nearly right gives ids that are nearly all wrong.
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/base/utf8.h"
#include "models/tasks/tokenizers/bpe_tokenizer.h"
#include "models/tasks/tokenizers/tokenizer_parts.h"

namespace eigsvc {
namespace {

using nlohmann::json;

constexpr absl::string_view kDigits = R"(\p{N}+)", kDigit = R"(\p{N})";

absl::Status NotRead(absl::string_view what, absl::string_view kind) {
  return absl::FailedPreconditionError(absl::StrCat(
      what, " \"", ToUtf8(kind, 64), "\" is not read; byte-pair tokenizers of language models are"));
}

// Members that are absent or null take the fallback, as do those of another type.
std::string Text(const json& object, const char* key, const std::string& fallback = "") {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : fallback;
}
bool Flag(const json& object, const char* key, bool fallback) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_boolean() ? found->get<bool>() : fallback;
}
const json& Member(const json& object, const char* key) {
  static const json& null = *new json();
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found == object.end() ? null : *found;
}

std::string Escaped(absl::string_view literal) {
  std::string pattern;
  for (const char c : literal) {
    if (absl::ascii_ispunct(static_cast<unsigned char>(c))) pattern.push_back('\\');
    pattern.push_back(c);
  }
  return pattern;
}

absl::Status AddNormaliser(const json& node, BpeParts* parts) {
  if (node.is_null()) return absl::OkStatus();
  const std::string type = Text(node, "type");
  if (type == "Sequence") {
    for (const json& part : Member(node, "normalizers")) EIGSVC_RETURN_IF_ERROR(AddNormaliser(part, parts));
    return absl::OkStatus();
  }
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    EIGSVC_ASSIGN_OR_RETURN(auto normaliser, UnicodeNormalisation(type));
    parts->normalisers.push_back(std::move(normaliser));
    return absl::OkStatus();
  }
  if (type == "Prepend") {
    parts->normalisers.push_back([prefix = Text(node, "prepend")](absl::string_view text) {
      return text.empty() ? std::string() : absl::StrCat(prefix, text);
    });
    return absl::OkStatus();
  }
  const std::string literal = Text(Member(node, "pattern"), "String");
  if (type == "Replace" && !literal.empty()) {
    parts->normalisers.push_back([literal, content = Text(node, "content")](absl::string_view text) {
      return absl::StrReplaceAll(text, {{literal, content}});
    });
    return absl::OkStatus();
  }
  return NotRead("normalizer", type == "Replace" ? "Replace by a Regex" : type);
}

absl::Status AddSplitter(absl::string_view pattern, TextSplitter::Keep keep, BpeParts* parts) {
  EIGSVC_ASSIGN_OR_RETURN(TextSplitter splitter, TextSplitter::Make(pattern, keep));
  parts->splitters.push_back(std::move(splitter));
  return absl::OkStatus();
}

absl::Status AddPreTokenizer(const json& node, BpeParts* parts) {
  if (node.is_null()) return absl::OkStatus();
  const std::string type = Text(node, "type");
  if (parts->bytes) return NotRead("pre_tokenizer after ByteLevel", type);
  if (type == "Sequence") {
    for (const json& part : Member(node, "pretokenizers"))
      EIGSVC_RETURN_IF_ERROR(AddPreTokenizer(part, parts));
    return absl::OkStatus();
  }
  if (type == "ByteLevel") {
    parts->blank_first = Flag(node, "add_prefix_space", true);
    if (parts->blank_first && !parts->splitters.empty())
      return NotRead("pre_tokenizer", "ByteLevel with a prefix after a split");
    if (Flag(node, "use_regex", true))
      EIGSVC_RETURN_IF_ERROR(AddSplitter(kGpt2Pattern, TextSplitter::Keep::kBoth, parts));
    parts->bytes = true;
    return absl::OkStatus();
  }
  if (type == "Digits") {
    return AddSplitter(Flag(node, "individual_digits", false) ? kDigit : kDigits, TextSplitter::Keep::kBoth,
                       parts);
  }
  if (type == "Split") {
    const json& given = Member(node, "pattern");
    const std::string pattern =
        given.contains("Regex") ? Text(given, "Regex") : Escaped(Text(given, "String"));
    const std::string behaviour = Text(node, "behavior");
    if (behaviour != "Isolated" && behaviour != "Removed") return NotRead("behavior of Split", behaviour);
    const TextSplitter::Keep removed =
        Flag(node, "invert", false) ? TextSplitter::Keep::kMatches : TextSplitter::Keep::kBetween;
    return AddSplitter(pattern, behaviour == "Isolated" ? TextSplitter::Keep::kBoth : removed, parts);
  }
  return NotRead("pre_tokenizer", type);
}

absl::Status AddAddedTokens(const json& list, BpeParts* parts) {
  for (const json& token : list) {
    const json& id = Member(token, "id");
    const std::string content = Text(token, "content");
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= int64_t{1} << 30) {
      return absl::InvalidArgumentError(absl::StrCat("added token \"", ToUtf8(content, 40), "\" has no id"));
    }
    if (Flag(token, "lstrip", false) || Flag(token, "rstrip", false) || Flag(token, "single_word", false)) {
      return NotRead("lstrip, rstrip or single_word of the added token", content);
    }
    parts->added.push_back({content, id.get<int32_t>(), Flag(token, "normalized", false)});
  }
  return absl::OkStatus();
}

absl::Status AddModel(const json& model, absl::string_view name, BpeParts* parts) {
  if (const std::string type = Text(model, "type", "BPE"); type != "BPE") return NotRead("model", type);
  for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!Text(model, option).empty()) return NotRead("model option", option);
  }
  if (Member(model, "dropout").is_number() && Member(model, "dropout") != 0)
    return NotRead("model option", "dropout");
  EIGSVC_RETURN_IF_ERROR(AddVocabulary(Member(model, "vocab"), name, parts->bytes, parts));
  int32_t rank = 0;
  for (const json& merge : Member(model, "merges")) {
    std::pair<std::string, std::string> halves;
    if (merge.is_string()) {
      halves = absl::StrSplit(merge.get_ref<const std::string&>(), absl::MaxSplits(' ', 1));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      halves = {merge[0].get<std::string>(), merge[1].get<std::string>()};
    }
    EIGSVC_RETURN_IF_ERROR(Annotate(AddMerge(halves.first, halves.second, rank, parts->bytes, parts),
                                    absl::StrCat("merge ", rank)));
    ++rank;
  }
  parts->whole_pieces = Flag(model, "ignore_merges", false);
  parts->join_unknown = Flag(model, "fuse_unk", false);
  if (const std::string unknown = Text(model, "unk_token"); !unknown.empty() && !parts->bytes) {
    const auto found = parts->vocabulary.find(unknown);
    if (found == parts->vocabulary.end())
      return absl::InvalidArgumentError(
          absl::StrCat("unk_token \"", ToUtf8(unknown, 40), "\" is not in the vocabulary"));
    parts->unknown = found->second;
  }
  if (Flag(model, "byte_fallback", false)) parts->byte_tokens = ByteTokens(*parts);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> ReadTokenizerJson(absl::string_view text,
                                                                   absl::string_view name) {
  EIGSVC_ASSIGN_OR_RETURN(const json root, ParseTokenizerJson(text, name));
  BpeParts parts;
  parts.bytes = false;
  const auto add = [&]() -> absl::Status {
    EIGSVC_RETURN_IF_ERROR(AddNormaliser(Member(root, "normalizer"), &parts));
    EIGSVC_RETURN_IF_ERROR(AddPreTokenizer(Member(root, "pre_tokenizer"), &parts));
    EIGSVC_RETURN_IF_ERROR(AddModel(Member(root, "model"), name, &parts));
    return AddAddedTokens(Member(root, "added_tokens"), &parts);
  };
  if (absl::Status status = add(); !status.ok()) return Annotate(status, name);
  return MakeBpeTokenizer(std::move(parts), name);
}

}  // namespace eigsvc
