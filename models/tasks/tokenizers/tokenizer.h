// Tokenizer: text to token ids. Every kind read here is byte-pair encoding or whole words; which, its file
// tells.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

// Immutable; share it freely.
class Tokenizer {
 public:
  // What encoding needs beside the tokenizer: caches, matchers. One thread at a time.
  class Session {
   public:
    virtual ~Session() = default;
    // Appends the ids of `text`, without any special token at its ends. INVALID_ARGUMENT: text that is not
    // UTF-8 (names the byte), or that the vocabulary cannot spell. RESOURCE_EXHAUSTED: the pattern that
    // splits words takes too long on it.
    virtual absl::Status Encode(absl::string_view text, std::vector<int32_t>* ids) = 0;
  };

  virtual ~Tokenizer() = default;
  virtual int64_t vocab_size() const = 0;  // largest id + 1
  virtual absl::StatusOr<std::unique_ptr<Session>> NewSession() const = 0;
};

inline constexpr int64_t kMaxTokenizerBytes = int64_t{64} << 20;  // of a tokenizer's file

// Each of these reads whole files; `name` stands in the messages. INVALID_ARGUMENT: malformed (names line,
// byte or key). FAILED_PRECONDITION: a kind or option of tokenizer that is not read, by name.

// gpt2_files.cc: OpenAI's encoder.json and vocab.bpe, which Hugging Face calls vocab.json and merges.txt.
absl::StatusOr<std::shared_ptr<const Tokenizer>> ReadGpt2Tokenizer(absl::string_view vocab_json,
                                                                   absl::string_view merges_txt,
                                                                   absl::string_view name);
// tokenizer_json.cc: Hugging Face's tokenizer.json with a BPE model. Tokens that were added to the vocabulary
// are found in the text, as that library finds them.
absl::StatusOr<std::shared_ptr<const Tokenizer>> ReadTokenizerJson(absl::string_view json,
                                                                   absl::string_view name);
// sentencepiece_bin.cc: llama2.c's tokenizer.bin, a SentencePiece BPE model as pieces and scores.
absl::StatusOr<std::shared_ptr<const Tokenizer>> ReadSentencePieceBin(absl::string_view bytes,
                                                                      absl::string_view name);

}  // namespace eigsvc
