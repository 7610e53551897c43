#include "models/tasks/prefetch.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "models/base/random.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::StatusIs;
using ::testing::HasSubstr;

// A task that tells what is drawn, and waits in a draw until it is let go.
class Watched final : public Task {
 public:
  absl::string_view name() const override { return "watched"; }
  const Settings& parameters() const override { return parameters_; }
  const TaskSignature& signature() const override { return signature_; }
  int64_t example_count(Split) const override { return 1000; }
  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    if (absl::Status status = CheckExampleRange(*this, split, first, count); !status.ok()) return status;
    if (first == 666) throw std::bad_alloc();
    std::unique_lock lock(mutex_);
    started_.insert(first);
    by_[first] = std::this_thread::get_id();
    changed_.notify_all();
    changed_.wait(lock, [&] { return !held_ || released_.count(first) > 0; });
    Batch batch{.rows = count, .steps = 1};
    for (int64_t i = first; i < first + count; ++i) batch.tokens.push_back(i);
    return batch;
  }
  Score ComputeScore(Split, absl::Span<const Prediction>) const override { return {}; }

  void Hold() { held_ = true; }
  void Release(int64_t first) {
    const std::lock_guard lock(mutex_);
    released_.insert(first);
    changed_.notify_all();
  }
  void WaitUntilStarted(int64_t first) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return started_.count(first) > 0; });
  }
  std::thread::id DrawnBy(int64_t first) {
    const std::lock_guard lock(mutex_);
    return by_[first];
  }

 private:
  const Settings parameters_;
  const TaskSignature signature_{.vocab_size = 1000, .classes = 1};
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable std::set<int64_t> started_, released_;
  mutable std::map<int64_t, std::thread::id> by_;
  std::atomic<bool> held_{false};
};

TEST(PrefetchTest, DrawsTheNextBatchWhileThisOneIsInUse) {
  Watched task;
  Prefetch prefetch(task, Split::kTrain, 1);
  prefetch.Expect({0, 4});
  prefetch.Expect({4, 4});
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch first, prefetch.Take({0, 4}));
  EXPECT_EQ(first.tokens, (std::vector<int64_t>{0, 1, 2, 3}));
  task.WaitUntilStarted(4);  // would wait for ever if nothing drew ahead
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch second, prefetch.Take({4, 4}));
  EXPECT_EQ(second.tokens[0], 4);
  EXPECT_NE(task.DrawnBy(4), std::this_thread::get_id());
}

TEST(PrefetchTest, SeveralThreadsDrawSideBySideAndBatchesComeInTheOrderAsked) {
  Watched task;
  task.Hold();
  Prefetch prefetch(task, Split::kTrain, 3);
  for (int64_t i = 0; i < 3; ++i) prefetch.Expect({10 * i, 2});
  for (int64_t i = 0; i < 3; ++i) task.WaitUntilStarted(10 * i);  // all three at once
  for (int64_t i = 2; i >= 0; --i) task.Release(10 * i);          // done in another order
  for (int64_t i = 0; i < 3; ++i) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, prefetch.Take({10 * i, 2}));
    EXPECT_EQ(batch.tokens[0], 10 * i);
  }
}

TEST(PrefetchTest, AWrongGuessCostsNothingButTime) {
  Watched task;
  Prefetch prefetch(task, Split::kTrain, 2);
  prefetch.Expect({0, 8});
  prefetch.Expect({8, 8});
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch other, prefetch.Take({0, 4}));  // another size than expected
  EXPECT_EQ(other.tokens.size(), 4u);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch late, prefetch.Take({8, 8}));  // forgotten, so drawn here
  EXPECT_EQ(late.tokens.size(), 8u);
  for (int64_t i = 0; i < 100; ++i) prefetch.Expect({i, 1});  // only the first few are held
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch far, prefetch.Take({99, 1}));
  EXPECT_EQ(far.tokens[0], 99);
}

TEST(PrefetchTest, ErrorsComeWithTheirBatch) {
  Watched task;
  Prefetch prefetch(task, Split::kTrain, 1);
  prefetch.Expect({999, 2});
  prefetch.Expect({666, 1});
  prefetch.Expect({5, 1});
  EXPECT_THAT(prefetch.Take({999, 2}), StatusIs(StatusCode::kOutOfRange, HasSubstr("999")));
  EXPECT_THAT(prefetch.Take({666, 1}),
              StatusIs(StatusCode::kResourceExhausted, HasSubstr("no memory for a batch")));
  EIGSVC_EXPECT_OK(prefetch.Take({5, 1}));
}

// What a training run asks of a real task, against drawing without threads.
TEST(PrefetchTest, BatchesDoNotDependOnThreads) {
  const auto task =
      MakeTask("mqar", {.parameters = Settings::Parse(R"({"vocab_size": 128})", "test").value(), .seed = 3})
          .value();
  for (const int threads : {1, 2, 8}) {
    Prefetch prefetch(*task, Split::kTrain, threads);
    Random random({1});
    std::vector<Prefetch::Range> ranges;
    for (int i = 0; i < 200; ++i)
      ranges.push_back({static_cast<int64_t>(random.Below(1000)), static_cast<int64_t>(1 + random.Below(9))});
    for (size_t i = 0; i < ranges.size(); ++i) {
      for (size_t ahead = i; ahead < std::min(ranges.size(), i + Prefetch::kDepth); ++ahead) {
        if (ahead % 17 != 3) prefetch.Expect(ranges[ahead]);  // some come as a surprise
      }
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, prefetch.Take(ranges[i]));
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch expected,
                                  task->Draw(Split::kTrain, ranges[i].first, ranges[i].count));
      ASSERT_EQ(batch.tokens, expected.tokens) << threads << " threads, batch " << i;
      ASSERT_EQ(batch.targets, expected.targets);
    }
  }
}

TEST(PrefetchTest, EndsWithDrawsUnderWay) {
  Watched task;
  task.Hold();
  std::thread release;
  {
    Prefetch prefetch(task, Split::kTrain, 2);
    for (int64_t i = 0; i < 4; ++i) prefetch.Expect({i, 1});
    task.WaitUntilStarted(0);
    release = std::thread([&] {
      for (int64_t i = 0; i < 4; ++i) task.Release(i);
    });
  }
  release.join();
}

}  // namespace
}  // namespace eigsvc
