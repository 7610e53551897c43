#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/tasks/task.h"
#include "models/tasks/tokenizers/tokenizer.h"
#include "tests/tasks/archives.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

namespace fs = std::filesystem;
using ::absl::StatusCode;
using ::eigsvc::testing::Pack;
using ::eigsvc::testing::Packing;
using ::eigsvc::testing::SharedPath;
using ::eigsvc::testing::StatusIs;
using ::eigsvc::testing::WriteFile;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Ask {
  std::string parameters = "{}";
  bool train = false, test = true;
  uint64_t seed = 1;
  std::string task = "wikitext-2";
};

absl::StatusOr<std::shared_ptr<const Task>> Make(const std::string& path, const Ask& ask) {
  return MakeTask(ask.task, {.parameters = Settings::Parse(ask.parameters, "test").value(),
                             .seed = ask.seed,
                             .data_path = path,
                             .train = ask.train,
                             .test = ask.test});
}

std::string FreshDir(const std::string& name) {
  const std::string path = absl::StrCat(::testing::TempDir(), "wikitext_", name);
  fs::remove_all(path);
  fs::create_directories(path);
  return path;
}

// The shared text with tokenizers beside it, as a user would lay them out.
std::string SharedLayout(const std::string& name) {
  const std::string root = FreshDir(name);
  fs::create_directories(root + "/gpt2");
  const std::pair<const char*, const char*> links[] = {
      {"data/wikitext-2/wiki.valid.tokens", "wiki.valid.tokens"},
      {"data/wikitext-2/wiki.test.tokens", "wiki.test.tokens"},
      {"data/tokenizers/gpt2/vocab.json", "gpt2/vocab.json"},
      {"data/tokenizers/gpt2/merges.txt", "gpt2/merges.txt"},
      {"data/tokenizers/gpt-neox/tokenizer.json", "tokenizer.json"},
      {"data/checkpoints/stories260K/tok512.bin", "tok512.bin"}};
  for (const auto& [from, to] : links) fs::create_symlink(SharedPath(from), absl::StrCat(root, "/", to));
  return root;
}

// All tokens of a split, in the order of its blocks.
std::vector<int64_t> AllTokens(const Task& task, Split split) {
  std::vector<int64_t> all;
  const int64_t count = task.example_count(split);
  for (int64_t first = 0; first < count; first += 1000) {
    const Batch batch = task.Draw(split, first, std::min<int64_t>(1000, count - first)).value();
    for (int64_t row = 0; row < batch.rows; ++row) {
      const auto begin = batch.tokens.begin() + row * batch.steps;
      all.insert(all.end(), begin, begin + batch.lengths[row]);
      for (int64_t i = 0; i < batch.steps; ++i) {  // each step asks for the token after it
        EXPECT_EQ(batch.targets[row * batch.steps + i],
                  i + 1 < batch.lengths[row] ? begin[i + 1] : kIgnoredTarget);
      }
    }
  }
  return all;
}

TEST(WikiTextTest, EveryTokenizerReadsTheRealText) {
  EIGSVC_REQUIRE_SHARED();
  const std::string root = SharedLayout("real");
  std::stringstream text;
  text << std::ifstream(root + "/wiki.test.tokens", std::ios::binary).rdbuf();
  struct Case {
    const char* parameters;
    int64_t vocab_size;
  };
  const Case cases[] = {{R"({"train_part": "valid"})", 50257},
                        {R"({"tokenizer": "huggingface", "tokenizer_folder": "tokenizer.json"})", 50277},
                        {R"({"tokenizer": "sentencepiece"})", 512},
                        {R"({"tokenizer": "word", "train_part": "valid"})", 0}};
  for (const Case& item : cases) {
    SCOPED_TRACE(item.parameters);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task, Make(root, {.parameters = item.parameters}));
    const TaskSignature& signature = task->signature();
    if (item.vocab_size > 0) {
      EXPECT_EQ(signature.vocab_size, item.vocab_size);
    }
    EXPECT_EQ(signature.classes, signature.vocab_size);
    EXPECT_EQ(signature.data_vocab_size, signature.vocab_size);
    EXPECT_FALSE(signature.per_sequence);
    EXPECT_EQ(task->example_count(Split::kTrain), 0);
    const std::vector<int64_t> tokens = AllTokens(*task, Split::kTest);
    for (const int64_t token : tokens) ASSERT_TRUE(token >= 0 && token < signature.vocab_size);
    EXPECT_EQ(task->example_count(Split::kTest), static_cast<int64_t>((tokens.size() + 1023) / 1024));
    if (item.vocab_size == 0) {
      EXPECT_EQ(tokens.size(), 245569u);
    }
    // One word's perplexity from one token's: as many tokens as the text has, over its published words.
    const std::vector<Prediction> predictions = {{0, 1, 1, 0.5}, {0, 1, 2, 1.5}};
    const Score score = task->ComputeScore(Split::kTest, predictions);
    EXPECT_DOUBLE_EQ(score.value, std::exp(1.0));
    ASSERT_EQ(score.also.back().first, "word_perplexity");
    EXPECT_NEAR(score.also.back().second, std::exp(static_cast<double>(tokens.size()) / 245569), 1e-9);
  }
}

TEST(WikiTextTest, TrainIsServedInTheSeedsOrderAndTestInTheTexts) {
  EIGSVC_REQUIRE_SHARED();
  const std::string root = SharedLayout("order");
  const std::string parameters =
      R"({"tokenizer": "sentencepiece", "block_length": 100, "train_part": "valid"})";
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto a, Make(root, {.parameters = parameters, .train = true}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto b, Make(root, {.parameters = parameters, .train = true, .seed = 2}));
  // The other way round, so that the same text is a test split: its order is the text's.
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const auto plain,
      Make(root,
           {.parameters = R"({"tokenizer": "sentencepiece", "block_length": 100, "test_part": "valid"})"}));
  const int64_t count = a->example_count(Split::kTrain);
  ASSERT_EQ(plain->example_count(Split::kTest), count);
  const auto rows = [&](const Task& task, Split split) {
    std::vector<std::vector<int64_t>> all;
    const Batch batch = task.Draw(split, 0, count).value();
    for (int64_t row = 0; row < count; ++row) {
      all.emplace_back(batch.tokens.begin() + row * batch.steps,
                       batch.tokens.begin() + row * batch.steps + batch.lengths[row]);
    }
    return all;
  };
  auto first = rows(*a, Split::kTrain), second = rows(*b, Split::kTrain), text = rows(*plain, Split::kTest);
  EXPECT_NE(first, second);
  EXPECT_NE(first, text);
  for (auto* all : {&first, &second, &text}) std::sort(all->begin(), all->end());
  EXPECT_EQ(first, text);
  EXPECT_EQ(second, text);
  EXPECT_EQ(a->Draw(Split::kTest, 3, 5)->tokens, b->Draw(Split::kTest, 3, 5)->tokens);
}

TEST(WikiTextTest, TheMeanOverBatchesIsOverBlocksInTheTextsOrder) {
  EIGSVC_REQUIRE_SHARED();
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const auto task, Make(SharedLayout("mean"),
                            {.parameters = R"({"tokenizer": "sentencepiece", "mean_over_batches_of": 2})"}));
  const std::vector<Prediction> predictions = {
      {0, 1, 1, 1.0}, {1, 1, 1, 2.0}, {1, 1, 1, 3.0}, {2, 1, 1, 0.5}};
  const Score score = task->ComputeScore(Split::kTest, predictions);
  EXPECT_DOUBLE_EQ(score.value, (std::exp(2.0) + std::exp(0.5)) / 2);
  EXPECT_EQ(score.n, 4);
}

TEST(WikiTextTest, ArchivesAndRawFilesAreRead) {
  const std::string text = " \n = Title = \n \n One two two . \n", train = "two two two One\nOne .\n";
  const std::string zip = WriteFile(FreshDir("zip") + "/wikitext-2-small.zip",
                                    Pack(Packing::kZip, {{"wikitext-2/", ""},
                                                         {"wikitext-2/wiki.test.tokens", text},
                                                         {"wikitext-2/wiki.train.tokens", train}}));
  const std::string folder = FreshDir("raw");
  WriteFile(folder + "/wiki.test.raw", text);
  WriteFile(folder + "/wiki.train.raw", train);
  for (const std::string& path : {zip, folder}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task,
                                Make(path, {.parameters = R"({"tokenizer": "word"})", .train = true}));
    // two 3, <eos> 2, One 2, . 1, then <unk>: ties by bytes, '<' before 'O'.
    EXPECT_EQ(task->signature().vocab_size, 5);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTest, 0, 1));
    EXPECT_THAT(batch.tokens,
                ElementsAre(1, /* = Title = */ 4, 4, 4, 1, 1, /* One two two . */ 2, 0, 0, 3, 1));
  }
}

TEST(WikiTextTest, ATokenizerThatIsNotTheRecordedOneIsRefused) {
  EIGSVC_REQUIRE_SHARED();
  const std::string root = SharedLayout("recorded");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task,
                              Make(root, {.parameters = R"({"tokenizer": "sentencepiece"})"}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto again, Make(root, {.parameters = task->parameters().ToJson()}));
  EXPECT_EQ(again->parameters().ToJson(), task->parameters().ToJson());
  std::stringstream bytes;
  bytes << std::ifstream(root + "/tok512.bin", std::ios::binary).rdbuf();
  std::string other = bytes.str();
  other[4] ^= 1;  // a score's last bit
  fs::remove(root + "/tok512.bin");
  WriteFile(root + "/tok512.bin", other);
  EXPECT_THAT(Make(root, {.parameters = task->parameters().ToJson()}),
              StatusIs(StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("not the recorded one"), HasSubstr("tokenizer_sha256="))));
  EIGSVC_EXPECT_OK(Make(root, {.parameters = R"({"tokenizer": "sentencepiece", "tokenizer_sha256": ""})"}));
}

TEST(WikiTextTest, WhatIsMissingIsNamed) {
  const std::string root = FreshDir("missing");
  WriteFile(root + "/wiki.test.tokens", " a b \n");
  EXPECT_THAT(Make(root, {}),
              StatusIs(StatusCode::kNotFound,
                       AllOf(HasSubstr("vocab.json with merges.txt"), HasSubstr("tokenizer=word"),
                             HasSubstr("eigsvc tasks describe wikitext-2"))));
  EXPECT_THAT(Make(root, {.parameters = R"({"tokenizer": "word"})"}),
              StatusIs(StatusCode::kNotFound, HasSubstr("no wiki.train.tokens or wiki.train.raw")));
  EXPECT_THAT(Make(root, {.parameters = R"({"tokenizer": "huggingface"})"}),
              StatusIs(StatusCode::kNotFound, HasSubstr("tokenizer.json")));
  EXPECT_THAT(
      Make(root, {.parameters = R"({"tokenizer": "sentencepiece"})", .task = "wikitext-103"}),
      StatusIs(StatusCode::kNotFound, AllOf(HasSubstr("tok*.bin"), HasSubstr("describe wikitext-103"))));
  EXPECT_THAT(
      Make(root, {.parameters = R"({"tokenizer": "bert"})"}),
      StatusIs(StatusCode::kInvalidArgument, HasSubstr("known: gpt2, word, huggingface, sentencepiece")));
  EXPECT_THAT(Make(root, {.parameters = R"({"train_part": "test"})", .train = true}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("the test would be on what was trained on")));
  WriteFile(root + "/wiki.test.raw", " a b \n");
  EXPECT_THAT(Make(root, {.parameters = R"({"tokenizer": "word", "train_part": "test"})"}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("the second file of its kind")));
  const std::string empty = FreshDir("empty");
  WriteFile(empty + "/wiki.test.tokens", "");
  WriteFile(empty + "/wiki.train.tokens", "a\n");
  EXPECT_THAT(Make(empty, {.parameters = R"({"tokenizer": "word"})"}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("fewer than two tokens")));
}

}  // namespace
}  // namespace eigsvc
