#include "server/plane/plane_request.h"

#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_store.h"
#include "tests/testing/fake_worker.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::FakeRun;
using ::eigsvc::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class PlaneRequestTest : public ::testing::Test {
 protected:
  PlaneRequestTest() {
    script_.analysis = [](const auto&, FakeRun&, const auto& on_event) {
      on_event(testing::ModelEvent());
      worker::v1::RunAnalysisResponse result = testing::ResultEvent(8, /*sites=*/2);
      auto& sites = *result.mutable_event()->mutable_result()->mutable_sites();
      sites[1].mutable_site()->set_layer(3);
      sites[1].mutable_bins()->set_below_1_index(0, 900);
      on_event(result);
      return absl::OkStatus();
    };
    worker_ = std::make_unique<Worker>(WorkerOptions{}, script_.Launcher(), &metrics_);
    jobs_ = std::make_unique<Jobs>(JobsOptions{}, std::vector<Worker*>{worker_.get()}, &store_, &metrics_);
  }

  std::string Analyze(const std::string& task = "mqar") {
    v1::AnalysisSpec spec;
    spec.mutable_checkpoint()->set_name("known.safetensors");
    spec.mutable_task()->set_name(task);
    const std::string id = jobs_->SubmitAnalysis(spec, absl::InfiniteFuture()).value();
    while (!jobs_->GetAnalysis(id)->has_end_time()) absl::SleepFor(absl::Milliseconds(1));
    return id;
  }
  absl::StatusOr<std::string> Get(const std::string& id, const std::string& query = "") {
    return PlanePng(*jobs_, "/v1/analyses/" + id + "/plane.png" + query);
  }

  testing::FakeStore store_;
  testing::FakeWorkerScript script_;
  Metrics metrics_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<Jobs> jobs_;
};

TEST_F(PlaneRequestTest, DrawsAnAnalysisAndTheLatest) {
  const std::string id = Analyze();
  const absl::StatusOr<std::string> png = Get(id);
  ASSERT_TRUE(png.ok()) << png.status();
  EXPECT_THAT(*png, StartsWith("\x89PNG\r\n"));
  EXPECT_EQ(*Get("latest"), *png);
  EXPECT_EQ(*Get(id, "?view=plane&layer="), *png);
  EXPECT_EQ(*Get(id, "?t=1782300000000&view=plane"), *png);
  EXPECT_EQ(*Get(id, "?t"), *png);
  EXPECT_NE(*Get(id, "?view=unrolled"), *png);
  EXPECT_NE(*Get(id, "?layer=3"), *png);
  EXPECT_NE(*Get(id, "?layer=3"), *Get(id, "?layer=0"));
}

TEST_F(PlaneRequestTest, SaysWhatIsWrong) {
  EXPECT_THAT(Get("latest"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no analysis has succeeded")));
  const std::string id = Analyze();
  EXPECT_THAT(Get("an-0"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no analysis \"an-0\"")));
  EXPECT_THAT(Get(id, "?view=side"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("view=side")));
  EXPECT_THAT(Get(id, "?layer=-1"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layer=-1")));
  EXPECT_THAT(Get(id, "?layer=7"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("these have: 0, 3")));
  EXPECT_THAT(Get(id, "?tt=1"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no parameter")));
  EXPECT_THAT(Get(id, "?w=9\xff"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no parameter")));
  EXPECT_THAT(PlanePng(*jobs_, "/v1/analyses//plane.png"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("there is")));
  EXPECT_THAT(PlanePng(*jobs_, "/v1/"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("there is")));
}

TEST_F(PlaneRequestTest, WithoutEigenvaluesThereIsNothingToShow) {
  script_.analysis = [](const auto&, FakeRun&, const auto&) { return absl::InternalError("broken"); };
  EXPECT_THAT(Get(Analyze()), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no eigenvalues")));
}

}  // namespace
}  // namespace eigsvc
