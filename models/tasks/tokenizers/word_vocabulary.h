// WordVocabulary: whole words between white space, as language models of WikiText's .tokens files use them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/base/stop_token.h"
#include "models/tasks/readers/byte_stream.h"
#include "models/tasks/tokenizers/tokenizer.h"

namespace eigsvc {

class WordVocabulary {
 public:
  // Every word of the text and <eos>, the end of a line, by falling frequency, ties by their bytes; <unk>,
  // which any other word becomes, last where the text does not hold it. INVALID_ARGUMENT naming line and byte
  // of what is no UTF-8; RESOURCE_EXHAUSTED beyond kMaxWords.
  static absl::StatusOr<WordVocabulary> Of(ByteStream& text, const StopToken* stop);
  static constexpr int64_t kMaxWords = int64_t{1} << 23;

  const std::vector<std::string>& words() const { return words_; }  // by id
  int32_t end_of_line() const { return end_of_line_; }
  std::shared_ptr<const Tokenizer> tokenizer() const;

 private:
  std::vector<std::string> words_;
  int32_t end_of_line_ = 0, unknown_ = 0;
};

}  // namespace eigsvc
