#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "models/tasks/task.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(TaskRegistryTest, UnknownTaskListsTheKnownOnes) {
  EXPECT_THAT(FindTask("mqarr"),
              StatusIs(StatusCode::kNotFound, AllOf(HasSubstr("mqar"), HasSubstr("next-token"))));
}

TEST(TaskRegistryTest, UnknownParameterListsTheKnownOnes) {
  Settings parameters;
  parameters.Set("num_kv_pair", int64_t{4});
  EXPECT_THAT(
      MakeTask("mqar", parameters, 1, ""),
      StatusIs(StatusCode::kInvalidArgument, AllOf(HasSubstr("num_kv_pair\""), HasSubstr("num_kv_pairs"))));
}

TEST(TaskRegistryTest, EveryEntryIsDocumentedAndFound) {
  for (const TaskEntry& entry : Tasks()) {
    SCOPED_TRACE(std::string(entry.name));
    EXPECT_FALSE(entry.summary.empty());
    EXPECT_FALSE(entry.metric.empty());
    for (const TaskParameter& parameter : entry.parameters) EXPECT_FALSE(parameter.meaning.empty());
    EIGSVC_ASSERT_OK_AND_ASSIGN(const TaskEntry* found, FindTask(entry.name));
    EXPECT_EQ(found->name, entry.name);
    EXPECT_THAT(MakeTask(entry.name, Settings(), 1, entry.needs_data ? "" : "some.json"),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr("--data")));
  }
}

// What is recorded in a checkpoint builds the same task again, and a missing key takes the documented
// fallback.
TEST(TaskRegistryTest, ResolvedParametersRebuildTheTask) {
  for (const TaskEntry& entry : Tasks()) {
    if (entry.needs_data) continue;
    SCOPED_TRACE(std::string(entry.name));
    EIGSVC_ASSERT_OK_AND_ASSIGN(auto task, MakeTask(entry.name, Settings(), 7, ""));
    EIGSVC_ASSERT_OK_AND_ASSIGN(auto again, MakeTask(entry.name, task->parameters(), 7, ""));
    EXPECT_EQ(task->parameters().ToJson(), again->parameters().ToJson());
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch a, task->Draw(Split::kTest, 0, 4));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch b, again->Draw(Split::kTest, 0, 4));
    EXPECT_EQ(a.tokens, b.tokens);
    for (const TaskParameter& parameter : entry.parameters) {
      EIGSVC_ASSERT_OK_AND_ASSIGN(
          const double value, task->parameters().Real(parameter.name).ok()
                                  ? task->parameters().Real(parameter.name)
                                  : absl::StatusOr<double>(task->parameters().Bool(parameter.name).value()));
      const double documented = parameter.type == "boolean" ? parameter.fallback == "true"
                                                            : std::stod(std::string(parameter.fallback));
      EXPECT_EQ(value, documented) << parameter.name;
    }
  }
}

TEST(TaskRegistryTest, DrawRefusesWhatTheSplitDoesNotHold) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto task, MakeTask("mqar", Settings(), 1, ""));
  const int64_t count = task->example_count(Split::kTest);
  EIGSVC_EXPECT_OK(task->Draw(Split::kTest, count - 1, 1));
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  for (auto [first, size] : {std::pair<int64_t, int64_t>{count, 1},
                             {count - 1, 2},
                             {-1, 1},
                             {0, 0},
                             {0, -1},
                             {1, kMax},
                             {kMax, 1}}) {
    EXPECT_THAT(task->Draw(Split::kTest, first, size),
                StatusIs(StatusCode::kOutOfRange, HasSubstr("test split has 3000")));
  }
  EXPECT_THAT(task->Draw(Split::kTrain, 0, kMaxDraw + 1),
              StatusIs(StatusCode::kResourceExhausted, HasSubstr("at most")));
}

TEST(TaskRegistryTest, SplitsHaveNames) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Split train, ParseSplit("train"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Split test, ParseSplit("test"));
  EXPECT_EQ(train, Split::kTrain);
  EXPECT_EQ(test, Split::kTest);
  EXPECT_THAT(ParseSplit("valid"), StatusIs(StatusCode::kInvalidArgument, HasSubstr("known: train, test")));
}

}  // namespace
}  // namespace eigsvc
