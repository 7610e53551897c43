// Several devices against one: shares on the CPU, of every family, whose merged spectra must have the same
// bits.
#include "models/analysis/shared_analysis.h"

#include <atomic>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "c10/util/Exception.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/analysis/fakes.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tiny_models.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::FakeModel;
using ::eigsvc::testing::FakeTask;
using ::eigsvc::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::NanSensitiveDoubleEq;

using Progress = std::function<void(const AnalysisProgress&)>;

absl::StatusOr<AnalysisResult> Shared(const SequenceModel& model, size_t devices, const Task& task,
                                      const AnalysisOptions& options, const Progress& progress = nullptr,
                                      const StopToken& stop = StopToken::Never()) {
  const std::vector<const ModelWeights*> replicas(devices, &model.weights());
  return RunSharedAnalysis(model, replicas, task, options, progress, stop);
}

void ExpectTheSame(const AnalysisResult& shared, const AnalysisResult& whole) {
  EXPECT_EQ(shared.eigenvalues, whole.eigenvalues);
  EXPECT_EQ(shared.examples, whole.examples);
  EXPECT_EQ(shared.tokens, whole.tokens);
  EXPECT_EQ(shared.batches, whole.batches);
  EXPECT_EQ(shared.score.n, whole.score.n);
  EXPECT_THAT(shared.score.value, NanSensitiveDoubleEq(whole.score.value));
  EXPECT_THAT(shared.score.ci95_low, NanSensitiveDoubleEq(whole.score.ci95_low));
  ASSERT_EQ(shared.predictions.size(), whole.predictions.size());
  for (size_t i = 0; i < whole.predictions.size(); ++i)
    EXPECT_EQ(shared.predictions[i].example, whole.predictions[i].example);
  ASSERT_EQ(shared.sites.size(), whole.sites.size());
  for (size_t i = 0; i < whole.sites.size(); ++i) {
    const SiteSpectrum &mine = shared.sites[i], &theirs = whole.sites[i];
    EXPECT_EQ(mine.site, theirs.site);
    EXPECT_EQ(mine.constant, theirs.constant);
    EXPECT_EQ(mine.multiplicities, theirs.multiplicities);
    EXPECT_EQ(mine.conditioning.has_value(), theirs.conditioning.has_value());
    EXPECT_TRUE(mine.spectrum.parts() == theirs.spectrum.parts()) << "site " << i;
  }
}

class SharedFamiliesTest : public ::testing::TestWithParam<testing::TinyModel> {};

TEST_P(SharedFamiliesTest, SharesAddUpToTheWhole) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, testing::MakeTiny(GetParam()));
  const FakeTask task(14, testing::kTinyVocabulary, /*steps=*/12, /*longest=*/9);
  AnalysisOptions options;
  options.batch_size = 2;  // what a row comes to may depend on the rows beside it, in the last bits
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult whole,
                              RunAnalysis(*model, task, options, nullptr, StopToken::Never()));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult shared, Shared(*model, 3, task, options));
  ExpectTheSame(shared, whole);
}

INSTANTIATE_TEST_SUITE_P(Tiny, SharedFamiliesTest, ::testing::ValuesIn(testing::TinyTokenModels()),
                         [](const auto& tiny) { return testing::TinyModelName(tiny.param); });

absl::Status ReportNothing(int, const at::Tensor&, const LayerContext&) { return absl::OkStatus(); }

TEST(SharedAnalysisTest, EveryExampleIsTakenOnceWhateverTheNumbers) {
  const FakeModel model(1, 23, ReportNothing);
  for (const int64_t examples : {1, 2, 3, 7, 8, 41}) {
    for (const int64_t batch : {0, 1, 3, 64}) {
      for (const size_t devices : {1, 2, 3, 8}) {
        SCOPED_TRACE(absl::StrCat(examples, " examples, batches of ", batch, ", ", devices, " devices"));
        const FakeTask task(examples, 23, 6, 5);
        AnalysisOptions options;
        options.batch_size = batch;
        EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult whole,
                                    RunAnalysis(model, task, options, nullptr, StopToken::Never()));
        EIGSVC_ASSERT_OK_AND_ASSIGN(AnalysisResult shared, Shared(model, devices, task, options));
        if (batch == 0) shared.batches = whole.batches;  // as they are chosen
        ExpectTheSame(shared, whole);
      }
    }
  }
}

// Whichever share ends first.
TEST(SharedAnalysisTest, HalvingsOfOneShareAreThoseOfAll) {
  const FakeTask task(16, 23, 6, 5);
  AnalysisOptions options;
  options.batch_size = 8;
  for (const bool the_first : {false, true}) {
    const FakeModel model(1, 23, [&](int, const at::Tensor& x, const LayerContext&) {
      // Examples 0 and 4, at which the first share's batch of 8 and its halves begin, begin with tokens 0
      // and 5.
      const bool of_first = x[0][0].item<float>() == 0 || x[0][0].item<float>() == 5;
      TORCH_CHECK_WITH(OutOfMemoryError, of_first != the_first || x.size(0) <= 3, "out of memory");
      return absl::OkStatus();
    });
    EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Shared(model, 2, task, options));
    EXPECT_EQ(result.examples, 16);
    EXPECT_EQ(result.batch_size, 8);
    EXPECT_EQ(result.halvings, 3);
    EXPECT_EQ(result.halved_to, 2);
  }
}

TEST(SharedAnalysisTest, ProgressIsOfAllSharesAndByOneThreadAtATime) {
  // A report is followed by ten times its own time without one: the last batch lets that pass.
  std::atomic<int> batches = 0;
  const FakeModel model(1, 23, [&](int, const at::Tensor&, const LayerContext&) {
    if (++batches == 60) absl::SleepFor(absl::Seconds(1));
    return absl::OkStatus();
  });
  const FakeTask task(60, 23, 6, 5);
  AnalysisOptions options;
  options.batch_size = 1;
  options.progress_interval = absl::ZeroDuration();
  std::atomic<int> inside = 0;
  int64_t most = 0;
  size_t calls = 0;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result,
                              Shared(model, 3, task, options, [&](const AnalysisProgress& progress) {
                                EXPECT_EQ(inside.fetch_add(1), 0);
                                EXPECT_EQ(progress.examples_total, 60);
                                EXPECT_GE(progress.examples_done, most);
                                std::set<int64_t> seen;
                                for (const Prediction& prediction : *progress.predictions)
                                  seen.insert(prediction.example);
                                EXPECT_LE(static_cast<int64_t>(seen.size()), progress.examples_done);
                                most = progress.examples_done;
                                ++calls;
                                inside.fetch_sub(1);
                              }));
  EXPECT_GE(calls, 2u);
  EXPECT_EQ(most, 60);  // of all shares
  EXPECT_EQ(result.examples, 60);
}

TEST(SharedAnalysisTest, AShareThatFailsStopsTheOthersAndIsTold) {
  std::atomic<int> layers = 0;
  const FakeModel model(1, 23, [&](int, const at::Tensor& x, const LayerContext& context) -> absl::Status {
    ++layers;
    if (x.size(1) > 0 && layers == 5) return absl::DataLossError("the fifth batch is broken");
    absl::SleepFor(absl::Milliseconds(2));
    return context.stop->Check();
  });
  const FakeTask task(4000, 23, 6, 5);
  AnalysisOptions options;
  options.batch_size = 1;
  EXPECT_THAT(Shared(model, 4, task, options),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("fifth batch")));
  EXPECT_LT(layers, 1000);
}

TEST(SharedAnalysisTest, ACancelReachesEveryShare) {
  StopToken stop;
  const FakeModel model(1, 23, [&](int, const at::Tensor&, const LayerContext& context) -> absl::Status {
    absl::SleepFor(absl::Milliseconds(2));
    return context.stop->Check();
  });
  const FakeTask task(4000, 23, 6, 5);
  AnalysisOptions options;
  options.batch_size = 1;
  options.progress_interval = absl::ZeroDuration();
  const absl::Time start = absl::Now();
  EXPECT_THAT(Shared(
                  model, 4, task, options, [&](const AnalysisProgress&) { stop.Cancel(); }, stop),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("caller")));
  EXPECT_LT(absl::Now() - start, absl::Seconds(1));
}

TEST(SharedAnalysisTest, RefusesWhatOneDeviceTakes) {
  const FakeModel model(1, 23, ReportNothing);
  const FakeTask task(4, 23, 6, 5);
  AnalysisOptions options;
  options.export_path = ::testing::TempDir() + "shared.safetensors";
  EXPECT_THAT(Shared(model, 2, task, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("one of them")));
  options.export_path.clear();
  options.window = {.length = 2, .stride = 2};
  EXPECT_THAT(Shared(model, 2, task, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("one of them")));
}

}  // namespace
}  // namespace eigsvc
