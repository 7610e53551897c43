// BpeTokenizer: the one pipeline behind every byte-pair tokenizer; the files fill in its parts. Text is cut
// at added tokens, normalised, split into pieces, spelt in symbols (bytes or characters) and merged.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "models/tasks/tokenizers/byte_pair.h"
#include "models/tasks/tokenizers/text_splitter.h"
#include "models/tasks/tokenizers/tokenizer.h"

namespace eigsvc {

struct AddedToken {
  std::string text;
  int32_t id = 0;
  bool normalised = false;  // looked for after the normalisation, and itself normalised
};

struct BpeParts {
  std::vector<AddedToken> added;
  // In this order, each on the whole text between added tokens.
  std::vector<std::function<std::string(absl::string_view)>> normalisers;
  // In this order, each on the pieces of the one before. None: the text is one piece.
  std::vector<TextSplitter> splitters;
  bool blank_first = false;  // a piece of text between added tokens starts with a blank, put there if need be

  bool bytes = true;                                     // the symbols are bytes, else characters
  absl::flat_hash_map<std::string, int32_t> vocabulary;  // a token's bytes -> id
  int64_t vocab_size = 0;                                // above every id, those of added tokens aside
  BytePairMerges merges;
  bool whole_pieces = false;  // a piece that is in the vocabulary is not taken apart
  // Of characters that the vocabulary lacks: their bytes' tokens, where all are there, else `unknown`.
  std::optional<std::array<int32_t, 256>> byte_tokens;
  std::optional<int32_t> unknown;
  bool join_unknown = false;  // a run of unknown characters is one token
};

// `name` stands in the messages of Encode.
std::shared_ptr<const Tokenizer> MakeBpeTokenizer(BpeParts parts, absl::string_view name);

}  // namespace eigsvc
