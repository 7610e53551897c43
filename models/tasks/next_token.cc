#include "models/tasks/next_token.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/tasks/scoring.h"
#include "models/tasks/token_file.h"

namespace eigsvc {
namespace {

constexpr int64_t kMaxBlock = int64_t{1} << 24;

struct Block {
  const int32_t* tokens = nullptr;  // of NextToken::sequences_
  int64_t length = 0;               // >= 2
};

class NextToken final : public Task {
 public:
  NextToken(TokenSequences sequences, std::vector<Block> blocks, int64_t train_blocks, int64_t vocab_size,
            Settings parameters)
      : sequences_(std::move(sequences)),
        blocks_(std::move(blocks)),
        train_blocks_(train_blocks),
        vocab_size_(vocab_size),
        parameters_(std::move(parameters)) {}

  absl::string_view name() const override { return "next-token"; }
  const Settings& parameters() const override { return parameters_; }
  int64_t vocab_size() const override { return vocab_size_; }
  int64_t example_count(Split split) const override {
    return split == Split::kTrain ? train_blocks_ : static_cast<int64_t>(blocks_.size()) - train_blocks_;
  }

  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    EIGSVC_RETURN_IF_ERROR(CheckExampleRange(*this, split, first, count));
    const absl::Span<const Block> blocks =
        absl::MakeConstSpan(blocks_).subspan(first + (split == Split::kTrain ? 0 : train_blocks_), count);
    Batch batch;
    batch.rows = count;
    for (const Block& block : blocks) {
      batch.steps = std::max(batch.steps, block.length);
      batch.lengths.push_back(block.length);
    }
    batch.tokens.assign(count * batch.steps, 0);
    batch.targets.assign(count * batch.steps, kIgnoredTarget);
    for (int64_t row = 0; row < count; ++row) {
      const Block& block = blocks[row];
      std::copy_n(block.tokens, block.length, batch.tokens.begin() + row * batch.steps);
      std::copy_n(block.tokens + 1, block.length - 1, batch.targets.begin() + row * batch.steps);
    }
    return batch;
  }

  Score ComputeScore(absl::Span<const Prediction> predictions) const override {
    std::vector<double> nll, scored;
    double total_nll = 0;
    int64_t correct = 0;
    Score score;
    for (const ExampleTally& tally : TallyByExample(predictions)) {
      nll.push_back(tally.nll);
      scored.push_back(static_cast<double>(tally.scored));
      total_nll += tally.nll;
      correct += tally.correct;
      score.n += tally.scored;
    }
    const Interval interval = RatioInterval(nll, scored, "blocks");
    score.metric = "perplexity";
    score.value = std::exp(total_nll / score.n);  // exp(0/0) = NaN when empty
    score.ci95_low = std::exp(interval.low);
    score.ci95_high = std::exp(interval.high);
    score.interval = interval.method;
    score.also = {{"accuracy", static_cast<double>(correct) / score.n}, {"nll", total_nll / score.n}};
    return score;
  }

 private:
  const TokenSequences sequences_;
  const std::vector<Block> blocks_;  // train first
  const int64_t train_blocks_;
  const int64_t vocab_size_;
  const Settings parameters_;
};

absl::StatusOr<std::shared_ptr<const Task>> MakeNextToken(const Settings& parameters, uint64_t /*seed*/,
                                                          const std::string& data_path) {
  EIGSVC_ASSIGN_OR_RETURN(const int64_t block_length, parameters.IntOr("block_length", 512));
  EIGSVC_ASSIGN_OR_RETURN(const int64_t vocab_size, parameters.IntOr("vocab_size", 0));
  EIGSVC_ASSIGN_OR_RETURN(const double train_share, parameters.RealOr("train_share", 0.0));
  if (block_length < 2 || block_length > kMaxBlock) {
    return absl::InvalidArgumentError(
        absl::StrCat("next-token: block_length is ", block_length, "; it must lie in [2, ", kMaxBlock, "]"));
  }
  if (vocab_size < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("next-token: vocab_size is ", vocab_size, "; it must be positive"));
  }
  if (!(train_share >= 0 && train_share < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("next-token: train_share is ", train_share,
                     "; it must lie in [0, 1), so that something is left to test on"));
  }
  EIGSVC_ASSIGN_OR_RETURN(TokenSequences sequences, ReadTokenFile(data_path));

  std::vector<Block> blocks;
  int32_t largest = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const std::vector<int32_t>& sequence = sequences[s];
    const auto top = std::max_element(sequence.begin(), sequence.end());
    if (top == sequence.end()) continue;
    if (vocab_size > 0 && *top >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(data_path, ": token id ", *top, " of sequence ", s,
                                                     " at position ", top - sequence.begin(),
                                                     " is not below vocab_size, which is ", vocab_size));
    }
    largest = std::max(largest, *top);
    const int64_t size = static_cast<int64_t>(sequence.size());
    for (int64_t begin = 0; begin + 2 <= size; begin += block_length) {
      blocks.push_back({sequence.data() + begin, std::min(block_length, size - begin)});
    }
  }
  if (blocks.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(data_path, " has no sequence of two tokens or more: there is nothing to predict"));
  }
  const int64_t train_blocks = static_cast<int64_t>(train_share * blocks.size());
  const int64_t resolved_vocab = vocab_size > 0 ? vocab_size : largest + int64_t{1};
  Settings resolved;
  resolved.Set("block_length", block_length);
  resolved.Set("vocab_size", resolved_vocab);
  resolved.Set("train_share", train_share);
  return std::make_shared<const NextToken>(std::move(sequences), std::move(blocks), train_blocks,
                                           resolved_vocab, std::move(resolved));
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
          /*needs_data=*/true,
          MakeNextToken};
}

}  // namespace eigsvc
