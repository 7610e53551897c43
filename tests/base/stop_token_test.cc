#include "models/base/stop_token.h"

#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::IsOk;
using ::eigsvc::testing::StatusIs;
using ::testing::HasSubstr;

TEST(StopTokenTest, RunsOnUntilCancelledFromAnotherThread) {
  StopToken stop;
  EXPECT_THAT(stop.Check(), IsOk());
  std::thread([&] { stop.Cancel(); }).join();
  EXPECT_THAT(stop.Check(), StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
}

TEST(StopTokenTest, StopsAtItsDeadline) {
  EXPECT_THAT(StopToken(absl::Now() + absl::Hours(1)).Check(), IsOk());
  EXPECT_THAT(StopToken(absl::Now() - absl::Seconds(1)).Check(),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("more time")));
}

TEST(StopTokenTest, ACancelIsReportedBeforeTheDeadline) {
  StopToken stop(absl::Now() - absl::Seconds(1));
  stop.Cancel();
  EXPECT_THAT(stop.Check(), StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
}

}  // namespace
}  // namespace eigsvc
