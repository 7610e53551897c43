#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "server/workers/worker.h"

namespace eigsvc {
namespace {

TEST(CallControlTest, CancelRunsTheHookOnce) {
  CallControl control;
  int runs = 0;
  control.OnCancel([&] { ++runs; });
  EXPECT_FALSE(control.cancelled());
  control.Cancel();
  control.Cancel();
  EXPECT_TRUE(control.cancelled());
  EXPECT_EQ(runs, 1);
}

TEST(CallControlTest, AHookThatComesLateRunsAtOnce) {
  CallControl control;
  control.Cancel();
  int runs = 0;
  control.OnCancel([&] { ++runs; });
  EXPECT_EQ(runs, 1);
  control.OnCancel({});
}

TEST(CallControlTest, ANewHookReplacesTheOld) {
  CallControl control;
  int first = 0, second = 0;
  control.OnCancel([&] { ++first; });
  control.OnCancel([&] { ++second; });
  control.Cancel();
  EXPECT_EQ(first, 0);
  EXPECT_EQ(second, 1);
}

// What the hook touches may be destroyed after OnCancel({}): under ThreadSanitizer this is the proof.
TEST(CallControlTest, NoHookRunsAfterItWasTakenAway) {
  for (int i = 0; i < 500; ++i) {
    CallControl control;
    auto touched = std::make_unique<int>(0);
    control.OnCancel([&] { ++*touched; });
    std::thread canceller([&] { control.Cancel(); });
    if (i % 2 == 0) std::this_thread::yield();
    control.OnCancel({});
    touched.reset();
    canceller.join();
  }
}

TEST(CallControlTest, ManyCancellersRunOneHook) {
  for (int i = 0; i < 100; ++i) {
    CallControl control;
    std::atomic<int> runs{0};
    control.OnCancel([&] { ++runs; });
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) threads.emplace_back([&] { control.Cancel(); });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(runs, 1);
  }
}

}  // namespace
}  // namespace eigsvc
