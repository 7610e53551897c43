// The two tasks whose demand on memory is known: every example against the task's definition.
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/sha256.h"
#include "models/tasks/task.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::StatusIs;
using ::testing::HasSubstr;

absl::StatusOr<std::shared_ptr<const Task>> Make(const char* name, const std::string& json,
                                                 uint64_t seed = 1) {
  return MakeTask(name, {.parameters = Settings::Parse(json, "test").value(), .seed = seed});
}

TEST(SelectiveCopyingTest, AsksForTheTokensInTheirOrder) {
  for (const bool start : {false, true}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        const auto task,
        Make("selective-copying",
             absl::StrCat(R"({"vocab_size": 7, "context_length": 20, "num_tokens": 5, "placement": ")",
                          start ? "start" : "random", R"("})")));
    constexpr int64_t kRows = 4000;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTrain, 0, kRows));
    ASSERT_EQ(batch.steps, 25);
    std::map<int64_t, int64_t> at_step, of_kind;
    for (int64_t row = 0; row < kRows; ++row) {
      std::vector<int64_t> kept;
      for (int64_t step = 0; step < 20; ++step) {
        const int64_t token = batch.tokens[row * 25 + step];
        EXPECT_EQ(batch.targets[row * 25 + step], kIgnoredTarget);
        if (token == 0) continue;
        EXPECT_TRUE(token >= 2 && token < 7);
        kept.push_back(token);
        ++at_step[step];
        ++of_kind[token];
      }
      ASSERT_EQ(kept.size(), 5u);
      for (int64_t i = 0; i < 5; ++i) {
        EXPECT_EQ(batch.tokens[row * 25 + 20 + i], 1);
        EXPECT_EQ(batch.targets[row * 25 + 20 + i], kept[i]);
      }
    }
    EXPECT_EQ(of_kind.size(), 5u);
    for (const auto& [kind, count] : of_kind) EXPECT_NEAR(count, kRows, 5 * std::sqrt(kRows)) << kind;
    EXPECT_EQ(at_step.size(), start ? 5u : 20u);
    for (const auto& [step, count] : at_step)
      EXPECT_NEAR(count, start ? kRows : kRows / 4, 5 * std::sqrt(kRows / 4)) << step;
  }
}

// All 10 choices of 2 steps among 5 are equally likely.
TEST(SelectiveCopyingTest, EveryPlacementIsEquallyLikely) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const auto task,
      Make("selective-copying", R"({"vocab_size": 4, "context_length": 5, "num_tokens": 2})"));
  constexpr int64_t kRows = 20000;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTest, 0, 3000));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch train, task->Draw(Split::kTrain, 0, kRows));
  EXPECT_NE(std::vector<int64_t>(train.tokens.begin(), train.tokens.begin() + 3000 * 7), batch.tokens);
  std::map<std::vector<bool>, int64_t> seen;
  for (int64_t row = 0; row < kRows; ++row) {
    std::vector<bool> placement;
    for (int64_t step = 0; step < 5; ++step) placement.push_back(train.tokens[row * 7 + step] != 0);
    ++seen[placement];
  }
  EXPECT_EQ(seen.size(), 10u);
  for (const auto& [placement, count] : seen) EXPECT_NEAR(count, kRows / 10, 5 * std::sqrt(kRows / 10));
}

TEST(DelayTest, EachStepAsksForTheTokenLagStepsBefore) {
  for (const int64_t lag : {0, 1, 7, 29}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        const auto task, Make("delay", absl::StrCat(R"({"vocab_size": 5, "length": 30, "lag": )", lag, "}")));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTest, 11, 200));
    std::map<int64_t, int64_t> counts;
    for (int64_t row = 0; row < 200; ++row) {
      for (int64_t step = 0; step < 30; ++step) {
        ++counts[batch.tokens[row * 30 + step]];
        EXPECT_EQ(batch.targets[row * 30 + step],
                  step < lag ? kIgnoredTarget : batch.tokens[row * 30 + step - lag]);
      }
    }
    EXPECT_EQ(counts.size(), 5u);
    for (const auto& [token, count] : counts) EXPECT_NEAR(count, 1200, 5 * std::sqrt(1200)) << token;
  }
}

TEST(DiagnosticsTest, ExamplesDependOnSeedSplitAndIndexAlone) {
  for (const char* name : {"delay", "selective-copying"}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto a, Make(name, "{}"));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto b, Make(name, "{}", 2));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch whole, a->Draw(Split::kTest, 0, 12));
    for (int64_t row = 0; row < 12; row += 3) {
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch part, a->Draw(Split::kTest, row, 3));
      EXPECT_TRUE(
          std::equal(part.tokens.begin(), part.tokens.end(), whole.tokens.begin() + row * whole.steps));
    }
    EXPECT_NE(b->Draw(Split::kTest, 0, 12)->tokens, whole.tokens);
    EXPECT_NE(a->Draw(Split::kTrain, 0, 12)->tokens, whole.tokens);
  }
}

// The bytes themselves: a change of the generator, or a platform that draws others, shows here.
TEST(DiagnosticsTest, TheFirstExamplesArePinned) {
  for (const auto& [name, pinned] :
       {std::pair("selective-copying", "2c89a7e45777290855d9a7115b185dbf5ba020a08954bc1224d2763a03a95327"),
        {"delay", "5264953e452fd76aa2ec77e18fec237a26520202664409a93624dffbb8f08115"}}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task, Make(name, "{}"));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTrain, 0, 64));
    EXPECT_EQ(Sha256::Of(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(batch.tokens.data()),
                                             batch.tokens.size() * sizeof(int64_t))),
              pinned)
        << name;
  }
}

TEST(DiagnosticsTest, BadParametersAreNamed) {
  const auto invalid = [](const char* message) {
    return StatusIs(StatusCode::kInvalidArgument, HasSubstr(message));
  };
  EXPECT_THAT(Make("selective-copying", R"({"num_tokens": 300})"), invalid("must not exceed context_length"));
  EXPECT_THAT(Make("selective-copying", R"({"vocab_size": 3})"), invalid("vocab_size is 3"));
  EXPECT_THAT(Make("selective-copying", R"({"placement": "end"})"), invalid("known: random, start"));
  EXPECT_THAT(Make("delay", R"({"lag": 256})"), invalid("lag is 256; it must be less than length"));
  EXPECT_THAT(Make("delay", R"({"lag": -1})"), invalid("lag is -1"));
}

}  // namespace
}  // namespace eigsvc
