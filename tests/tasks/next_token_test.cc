#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/tasks/task.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kNone = kIgnoredTarget;

class NextTokenTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& contents) {
    const std::string path =
        absl::StrCat(::testing::TempDir(), "next_token_",
                     ::testing::UnitTest::GetInstance()->current_test_info()->name(), ".json");
    std::ofstream(path, std::ios::binary) << contents;
    return path;
  }
  absl::StatusOr<std::shared_ptr<const Task>> Make(const std::string& contents,
                                                   const std::string& parameters) {
    return MakeTask("next-token", {.parameters = Settings::Parse(parameters, "test").value(),
                                   .data_path = Write(contents)});
  }
};

TEST_F(NextTokenTest, BlocksDoNotOverlapAndTheirFirstTokenIsNotScored) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto task, Make("[[10, 11, 12, 13, 14, 15, 16, 17, 18], [20, 21, 22, 23, 24]]",
                                              R"({"block_length": 4})"));
  // The rests 18 and 24 are single tokens: nothing to predict.
  ASSERT_EQ(task->example_count(Split::kTest), 3);
  EXPECT_EQ(task->example_count(Split::kTrain), 0);
  EXPECT_EQ(task->signature().vocab_size, 25);
  EXPECT_EQ(task->signature().data_vocab_size, 25);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTest, 0, 3));
  EXPECT_THAT(batch.lengths, ElementsAre(4, 4, 4));
  EXPECT_THAT(batch.tokens, ElementsAre(10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 22, 23));
  EXPECT_THAT(batch.targets, ElementsAre(11, 12, 13, kNone, 15, 16, 17, kNone, 21, 22, 23, kNone));
}

TEST_F(NextTokenTest, ShortRowsArePadded) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto task,
                              Make("[[1, 2], [3, 4, 5, 6, 7], [], [8]]", R"({"block_length": 3})"));
  ASSERT_EQ(task->example_count(Split::kTest), 3);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTest, 0, 3));
  EXPECT_THAT(batch.lengths, ElementsAre(2, 3, 2));
  EXPECT_THAT(batch.tokens, ElementsAre(1, 2, 0, 3, 4, 5, 6, 7, 0));
  EXPECT_THAT(batch.targets, ElementsAre(2, kNone, kNone, 4, 5, kNone, 7, kNone, kNone));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch first, task->Draw(Split::kTest, 0, 1));
  EXPECT_EQ(first.steps, 2);  // as wide as its own longest row
}

TEST_F(NextTokenTest, TrainShareCutsTheFileOnce) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto task,
                              Make("0 1 2 3 4 5 6 7 8 9", R"({"block_length": 2, "train_share": 0.6})"));
  EXPECT_EQ(task->example_count(Split::kTrain), 3);
  EXPECT_EQ(task->example_count(Split::kTest), 2);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch train, task->Draw(Split::kTrain, 0, 3));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch test, task->Draw(Split::kTest, 0, 2));
  EXPECT_THAT(train.tokens, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(test.tokens, ElementsAre(6, 7, 8, 9));
}

TEST_F(NextTokenTest, PerplexityIsTheExponentOfThePooledMean) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto task, Make("1 2 3", "{}"));
  // Pooled over tokens, not a mean of blocks: (0.5 + 1.5 + 4) / 3 = 2.
  const Score score = task->ComputeScore(
      Split::kTest,
      std::vector<Prediction>{{0, 7, 7, 0.5}, {0, 7, 6, 1.5}, {1, 3, 4, 4.0}, {1, 3, kIgnoredTarget, 99}});
  EXPECT_EQ(score.metric, "perplexity");
  EXPECT_EQ(score.n, 3);
  EXPECT_DOUBLE_EQ(score.value, std::exp(2.0));
  EXPECT_DOUBLE_EQ(score.ci95_low, std::exp(1.0));
  EXPECT_DOUBLE_EQ(score.ci95_high, std::exp(4.0));
  EXPECT_EQ(score.interval, "bootstrap over blocks, 2000 resamples");
  ASSERT_EQ(score.also.size(), 2u);
  EXPECT_EQ(score.also[0].first, "accuracy");
  EXPECT_DOUBLE_EQ(score.also[0].second, 1.0 / 3);
  EXPECT_DOUBLE_EQ(score.also[1].second, 2.0);
  EXPECT_TRUE(std::isnan(task->ComputeScore(Split::kTest, {}).value));
}

TEST_F(NextTokenTest, BadParametersAndDataAreNamed) {
  EXPECT_THAT(Make("1 2 3", R"({"block_length": 1})"),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("block_length is 1")));
  EXPECT_THAT(Make("1 2 3", R"({"train_share": 1})"),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("train_share is 1")));
  EXPECT_THAT(Make("1 2 3", R"({"vocab_size": -1})"),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("vocab_size is -1")));
  EXPECT_THAT(
      Make("[[1, 2], [3, 9, 4]]", R"({"vocab_size": 9})"),
      StatusIs(StatusCode::kInvalidArgument, AllOf(HasSubstr("token id 9 of sequence 1 at position 1"),
                                                   HasSubstr("vocab_size, which is 9; raise it"))));
  EXPECT_THAT(Make("7", "{}"), StatusIs(StatusCode::kInvalidArgument, HasSubstr("two tokens or more")));
  EXPECT_THAT(Make("[[], [1]]", "{}"),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("two tokens or more")));
  EXPECT_THAT(MakeTask("next-token", {.data_path = "/no/such/file.npy"}),
              StatusIs(StatusCode::kNotFound, HasSubstr("/no/such/file.npy")));
  EXPECT_THAT(MakeTask("next-token", {.data_path = ::testing::TempDir()}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("not a file")));
}

}  // namespace
}  // namespace eigsvc
