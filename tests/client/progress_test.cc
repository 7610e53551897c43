#include "client/cli/progress.h"

#include <cmath>
#include <vector>

#include "client/cli/analysis_json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace eigsvc::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class ProgressTest : public ::testing::Test {
 protected:
  Progress Make(ProgressMode mode, bool utf8 = true, int columns = 100) {
    return Progress(
        mode, [this](absl::string_view text) { written_.emplace_back(text); },
        Style{.color = false, .utf8 = utf8, .columns = columns}, [this] { return now_; });
  }
  Progress::State State(int64_t done) {
    return {.phase = "run",
            .done = done,
            .total = 100,
            .unit = "examples",
            .detail = "accuracy 0.9",
            .numbers = {{"score", 0.9}}};
  }
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  std::vector<std::string> written_;
};

TEST_F(ProgressTest, BarRedrawsOneLineAndLeavesItClean) {
  Progress progress = Make(ProgressMode::kBar);
  progress.Update(State(0));
  now_ += absl::Seconds(2);
  progress.Update(State(50));
  progress.Finish();
  EXPECT_THAT(
      written_,
      ElementsAre("\r\x1b[Krun ░░░░░░░░░░░░░░░░░░░░░░░░   0 %  0/100 examples  accuracy 0.9  0.00 s",
                  "\r\x1b[Krun ████████████░░░░░░░░░░░░  50 %  50/100 examples  accuracy 0.9  2.00 s left",
                  "\r\x1b[K"));
}

TEST_F(ProgressTest, BarIsNotRedrawnMoreThanTenTimesASecond) {
  Progress progress = Make(ProgressMode::kBar);
  for (int i = 0; i < 100; ++i) {
    progress.Update(State(i));
    now_ += absl::Milliseconds(10);
  }
  EXPECT_THAT(written_, SizeIs(10));
}

TEST_F(ProgressTest, BarFallsBackToAsciiAndNeverWraps) {
  Progress progress = Make(ProgressMode::kBar, /*utf8=*/false, /*columns=*/40);
  progress.Update(State(50));
  ASSERT_THAT(written_, SizeIs(1));
  EXPECT_EQ(written_[0], "\r\x1b[Krun ############............  50 %  50/");
}

TEST_F(ProgressTest, PlainLinesComeEveryTenSeconds) {
  Progress progress = Make(ProgressMode::kPlain);
  for (int second = 0; second < 25; ++second) {
    progress.Update(State(second));
    now_ += absl::Seconds(1);
  }
  EXPECT_THAT(written_, ElementsAre("eigsvc: run 10/100 examples, accuracy 0.9, 10 s, 90 s left\n",
                                    "eigsvc: run 20/100 examples, accuracy 0.9, 20 s, 80 s left\n"));
}

TEST_F(ProgressTest, TicksAloneKeepPlainLinesComing) {
  Progress progress = Make(ProgressMode::kPlain);
  progress.Update({.phase = "queue"});
  now_ += absl::Seconds(11);
  progress.Tick();
  EXPECT_THAT(written_, ElementsAre("eigsvc: queue, 11 s\n"));
}

TEST_F(ProgressTest, JsonLinesParse) {
  Progress progress = Make(ProgressMode::kJson);
  progress.Update(State(0));
  now_ += absl::Seconds(10);
  progress.Update(State(25));
  progress.Update({.phase = "a\"b\n", .numbers = {{"loss", std::nan("")}}});
  ASSERT_THAT(written_, SizeIs(3));
  for (const std::string& line : written_) EXPECT_THAT(line, EndsWith("\n"));
  const Json first = Json::parse(written_[0]), second = Json::parse(written_[1]),
             third = Json::parse(written_[2]);
  EXPECT_TRUE(first["eta_s"].is_null());
  EXPECT_EQ(second["event"], "progress");
  EXPECT_EQ(second["done"], 25);
  EXPECT_EQ(second["total"], 100);
  EXPECT_EQ(second["eta_s"], 30.0);
  EXPECT_EQ(second["score"], 0.9);
  EXPECT_EQ(third["phase"], "a\"b\n");
  EXPECT_TRUE(third["loss"].is_null());
}

TEST_F(ProgressTest, NoneSaysNothing) {
  {
    Progress progress = Make(ProgressMode::kNone);
    progress.Update(State(1));
    now_ += absl::Seconds(60);
    progress.Tick();
  }
  EXPECT_THAT(written_, IsEmpty());
}

}  // namespace
}  // namespace eigsvc::cli
