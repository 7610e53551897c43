#include "client/cli/progress.h"

#include <cmath>
#include <limits>
#include <vector>

#include "client/cli/analysis_json.h"
#include "client/cli/training_run.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/sample_analysis.h"

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

Spectrum Of(const std::vector<double>& log_magnitudes) {
  Spectrum spectrum;
  spectrum.Add(log_magnitudes, 1e-7);
  return spectrum;
}

TEST_F(ProgressTest, ATrainingShowsItsLossScoreAndSpectrumAsTheyMove) {
  constexpr double kZero = -std::numeric_limits<double>::infinity();
  v1::TrainingProgress now;
  now.set_step(50);
  now.set_steps(100);
  now.set_loss(1.5);
  TrainingKind kind{Style{.utf8 = true}};
  EXPECT_EQ(kind.ToState(now).detail, "loss 1.5000");  // nothing was evaluated yet

  now.mutable_score()->set_metric("accuracy");
  now.mutable_score()->set_value(0.25);
  now.set_best_score(0.75);
  *now.add_sites() = testing::ToProto(0, "mamba2", 0, Of({kZero, kZero, kZero}));
  *now.add_sites() = testing::ToProto(0, "mamba2", 1, Of({0}));
  *now.add_sites() = testing::ToProto(1, "mamba2", 0, Of({std::log(0.5)}));
  const Progress::State two_layers = kind.ToState(now);
  EXPECT_EQ(two_layers.detail, "loss 1.5000  accuracy 0.2500 (best 0.7500)  median |λ| 0 0.500");
  EXPECT_EQ(kind.ToJson(now)["sites"].size(), 3u);

  Progress progress = Make(ProgressMode::kBar, /*utf8=*/true, /*columns=*/200);
  progress.Update(two_layers);
  EXPECT_THAT(written_, ElementsAre(HasSubstr("50/100 steps  loss 1.5000  accuracy 0.2500 (best 0.7500)  "
                                              "median |λ| 0 0.500")));

  for (const int layer : {2, 3, 4})
    *now.add_sites() = testing::ToProto(layer, "mamba2", 0, Of({std::log(0.985)}));
  kind.style.utf8 = false;
  EXPECT_THAT(kind.ToState(now).detail, EndsWith("  median |lambda| 0 0.500 0.985 0.985 ..."));
}

}  // namespace
}  // namespace eigsvc::cli
