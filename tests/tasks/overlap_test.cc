// No example of a test split is an example of the train split: a million draws of each generator, kept as
// 128 bits of their SHA-256.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "models/base/sha256.h"
#include "models/tasks/task.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using Digest = std::array<uint64_t, 2>;

// Of the real steps of each example of [0, count).
std::vector<Digest> Digests(const Task& task, Split split, int64_t count) {
  constexpr int64_t kRows = 500;
  std::vector<Digest> digests(count);
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t first = t * kRows; first < count; first += 2 * kRows) {
        const Batch batch = task.Draw(split, first, std::min(kRows, count - first)).value();
        for (int64_t row = 0; row < batch.rows; ++row) {
          const std::string bytes = absl::HexStringToBytes(Sha256::Of(
              absl::MakeConstSpan(reinterpret_cast<const std::byte*>(batch.tokens.data() + row * batch.steps),
                                  8 * batch.lengths[row])));
          std::memcpy(digests[first + row].data(), bytes.data(), sizeof(Digest));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return digests;
}

class OverlapTest : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(OverlapTest, TrainAndTestShareNoExample) {
  const auto [name, parameters] = GetParam();
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const auto task,
      MakeTask(name, {.parameters = Settings::Parse(parameters, "test").value(), .seed = 1}));
  const int64_t train_count = task->example_count(Split::kTrain),
                test_count = task->example_count(Split::kTest);
  EXPECT_GE(train_count + test_count, 1000000);
  const std::vector<Digest> train = Digests(*task, Split::kTrain, train_count);
  const absl::flat_hash_set<Digest> known(train.begin(), train.end());
  int64_t shared = 0;
  for (const Digest& digest : Digests(*task, Split::kTest, test_count)) shared += known.contains(digest);
  EXPECT_EQ(shared, 0);
  RecordProperty("distinct_train", static_cast<int>(known.size()));
  std::printf("%s: %zu distinct of %lld train examples, %lld test examples, none shared\n", name,
              known.size(), static_cast<long long>(train_count), static_cast<long long>(test_count));
}

INSTANTIATE_TEST_SUITE_P(
    Generators, OverlapTest,
    ::testing::Values(
        std::pair("mqar", R"({"train_examples": 900000, "test_examples": 100000})"),
        std::pair("mqar", R"({"vocab_size": 512, "train_examples": 900000, "test_examples": 100000})"),
        std::pair("listops", R"({"train_examples": 900000, "test_examples": 100000})"),
        // So short that most of a million draws occur more than once: only the partition keeps them apart.
        std::pair("listops", R"({"min_length": 3, "max_length": 8, "train_examples": 500000,
                                 "test_examples": 500000})")));

}  // namespace
}  // namespace eigsvc
