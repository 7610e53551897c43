#include "models/tasks/next_token.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/tasks/parameters.h"
#include "models/tasks/readers/token_file.h"
#include "models/tasks/scoring.h"
#include "models/tasks/token_blocks.h"

namespace eigsvc {
namespace {

constexpr int64_t kMaxBlock = int64_t{1} << 24;

class NextToken final : public Task {
 public:
  NextToken(TokenBlocks blocks, int64_t train_blocks, TaskSignature signature, Settings parameters)
      : blocks_(std::move(blocks)),
        train_blocks_(train_blocks),
        parameters_(std::move(parameters)),
        signature_(signature) {}

  absl::string_view name() const override { return "next-token"; }
  const Settings& parameters() const override { return parameters_; }
  const TaskSignature& signature() const override { return signature_; }
  int64_t example_count(Split split) const override {
    return split == Split::kTrain ? train_blocks_ : blocks_.size() - train_blocks_;
  }

  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    EIGSVC_RETURN_IF_ERROR(CheckExampleRange(*this, split, first, count));
    std::vector<int64_t> indices(count);
    std::iota(indices.begin(), indices.end(), first + (split == Split::kTrain ? 0 : train_blocks_));
    return blocks_.Draw(indices);
  }

  Score ComputeScore(Split, absl::Span<const Prediction> predictions) const override {
    return PerplexityScore(predictions, {});
  }

 private:
  const TokenBlocks blocks_;
  const int64_t train_blocks_;  // the first of them
  const Settings parameters_;
  const TaskSignature signature_;
};

absl::StatusOr<std::shared_ptr<const Task>> MakeNextToken(const TaskRequest& request) {
  const std::string& data_path = request.data_path;
  ParameterReader reader("next-token", request.parameters);
  const int64_t block_length = reader.Int("block_length", 512, 2, kMaxBlock);
  const int64_t vocab_size = reader.Int("vocab_size", 0, 0, kMaxTaskVocabulary);
  const double train_share = reader.Real("train_share", 0, 0, 1);
  if (train_share == 1)
    reader.Fail("train_share is 1; it must be less, so that something is left to test on");
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_ASSIGN_OR_RETURN(TokenSequences sequences, ReadTokenFile(data_path));

  int32_t largest = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const std::vector<int32_t>& sequence = sequences[s];
    const auto top = std::max_element(sequence.begin(), sequence.end());
    if (top == sequence.end()) continue;
    if (vocab_size > 0 && *top >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(data_path, ": token id ", *top, " of sequence ", s,
                                                     " at position ", top - sequence.begin(),
                                                     " is not below vocab_size, which is ", vocab_size,
                                                     "; raise it, up to the model's vocabulary, or "
                                                     "give a file made with the model's tokenizer"));
    }
    largest = std::max(largest, *top);
  }
  TokenBlocks blocks(std::move(sequences), block_length);
  if (blocks.size() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(data_path, " has no sequence of two tokens or more: there is nothing to predict"));
  }
  const int64_t train_blocks = static_cast<int64_t>(train_share * static_cast<double>(blocks.size()));
  const int64_t data_vocab = largest + int64_t{1};
  const int64_t resolved_vocab = vocab_size > 0 ? vocab_size : data_vocab;
  reader.resolved().Set("vocab_size", resolved_vocab);
  const TaskSignature signature{
      .vocab_size = resolved_vocab, .classes = resolved_vocab, .data_vocab_size = data_vocab};
  return std::make_shared<const NextToken>(std::move(blocks), train_blocks, signature, reader.resolved());
}

}  // namespace

TaskEntry NextTokenEntry() {
  return {"next-token",
          "predict each next token of a file of token ids (--data .npy, .json or .txt)",
          "perplexity",
          {{"block_length", "integer", "512",
            "tokens a block; blocks do not overlap, the first token is not scored"},
           {"vocab_size", "integer", "the largest id + 1",
            "ids must be below it; also checked against the model"},
           {"train_share", "real", "0", "the first blocks of the file, as a share, are the train split"}},
          /*presets=*/{},
          {TaskData::Need::kRequired,
           /*names=*/{},
           {{"ANY.npy", "", "integers, 1-D or 2-D (a sequence a row)"},
            {"ANY.json", "", "a list of ids, or a list of such lists"},
            {"ANY.txt", "", "ids separated by white space"}},
           "one file, told apart by its bytes"},
          MakeNextToken};
}

}  // namespace eigsvc
