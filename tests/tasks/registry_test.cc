#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
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
      MakeTask("mqar", {.parameters = parameters}),
      StatusIs(StatusCode::kInvalidArgument, AllOf(HasSubstr("num_kv_pair\""), HasSubstr("num_kv_pairs"))));
}

TEST(TaskRegistryTest, EveryEntryIsDocumentedAndFound) {
  for (const TaskEntry& entry : Tasks()) {
    SCOPED_TRACE(std::string(entry.name));
    EXPECT_FALSE(entry.summary.empty());
    EXPECT_FALSE(entry.metric.empty());
    for (const TaskParameter& parameter : entry.parameters) {
      EXPECT_FALSE(parameter.meaning.empty());
      EXPECT_TRUE(parameter.type == "integer" || parameter.type == "real" || parameter.type == "boolean" ||
                  parameter.type == "text")
          << parameter.name;
    }
    EIGSVC_ASSERT_OK_AND_ASSIGN(const TaskEntry* found, FindTask(entry.name));
    EXPECT_EQ(found->name, entry.name);
    const bool takes_data = entry.data.need != TaskData::Need::kNone;
    EXPECT_EQ(entry.data.files.empty(), !takes_data);
    EXPECT_EQ(entry.data.layout.empty(), !takes_data);
    const std::map<std::string, size_t> digits = {{"md5", 32}, {"sha1", 40}, {"sha256", 64}};
    for (const TaskData::File& file : entry.data.files) {
      if (file.checksum.empty()) continue;
      const std::pair<std::string, std::string> checksum = absl::StrSplit(file.checksum, ' ');
      ASSERT_EQ(digits.count(checksum.first), 1u) << file.name;
      EXPECT_EQ(checksum.second.size(), digits.at(checksum.first)) << file.name;
    }
    if (entry.data.need == TaskData::Need::kRequired) {
      EXPECT_THAT(MakeTask(entry.name, {}),
                  StatusIs(StatusCode::kInvalidArgument,
                           AllOf(HasSubstr("--data"), HasSubstr("eigsvc tasks describe"),
                                 HasSubstr(std::string(entry.data.files[0].name)))));
    } else if (!takes_data) {
      EXPECT_THAT(MakeTask(entry.name, {.data_path = "some.json"}),
                  StatusIs(StatusCode::kInvalidArgument, HasSubstr("--data")));
    }
  }
}

std::vector<TaskEntry> TasksWithoutFiles() {
  std::vector<TaskEntry> entries;
  for (const TaskEntry& entry : Tasks()) {
    if (entry.data.need != TaskData::Need::kRequired) entries.push_back(entry);
  }
  return entries;
}

void ExpectSameBatch(const Batch& a, const Batch& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.values, b.values);
  EXPECT_EQ(a.targets, b.targets);
  EXPECT_EQ(a.lengths, b.lengths);
}

// What is recorded in a checkpoint builds the same task again, and a missing key takes the documented
// fallback.
TEST(TaskRegistryTest, ResolvedParametersRebuildTheTask) {
  for (const TaskEntry& entry : TasksWithoutFiles()) {
    SCOPED_TRACE(std::string(entry.name));
    EIGSVC_ASSERT_OK_AND_ASSIGN(auto task, MakeTask(entry.name, {.seed = 7}));
    EIGSVC_ASSERT_OK_AND_ASSIGN(auto again,
                                MakeTask(entry.name, {.parameters = task->parameters(), .seed = 7}));
    EXPECT_EQ(task->parameters().ToJson(), again->parameters().ToJson());
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch a, task->Draw(Split::kTest, 0, 4));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch b, again->Draw(Split::kTest, 0, 4));
    ExpectSameBatch(a, b);
    for (const TaskParameter& parameter : entry.parameters) {
      SCOPED_TRACE(std::string(parameter.name));
      const Settings& p = task->parameters();
      if (parameter.type == "text") {
        EXPECT_EQ(p.Text(parameter.name).value(), parameter.fallback);
      } else if (parameter.type == "boolean") {
        EXPECT_EQ(p.Bool(parameter.name).value(), parameter.fallback == "true");
      } else {
        EXPECT_EQ(p.Real(parameter.name).value(), std::stod(std::string(parameter.fallback)));
      }
    }
  }
}

// Every task that makes its own data keeps what Task promises, whatever it is.
TEST(TaskRegistryTest, BatchesKeepTheSignature) {
  for (const TaskEntry& entry : TasksWithoutFiles()) {
    SCOPED_TRACE(std::string(entry.name));
    EIGSVC_ASSERT_OK_AND_ASSIGN(auto task, MakeTask(entry.name, {.seed = 3}));
    const TaskSignature& signature = task->signature();
    EXPECT_NE(signature.vocab_size > 0, signature.channels > 0);
    EXPECT_GT(signature.classes, 0);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTrain, 0, 7));
    EXPECT_EQ(batch.rows, 7);
    EXPECT_EQ(batch.channels, signature.channels);
    EXPECT_EQ(static_cast<int64_t>(batch.tokens.size()), signature.vocab_size > 0 ? 7 * batch.steps : 0);
    EXPECT_EQ(static_cast<int64_t>(batch.values.size()), 7 * batch.steps * signature.channels);
    EXPECT_EQ(batch.target_steps(), signature.per_sequence ? 1 : batch.steps);
    for (const int64_t token : batch.tokens) {
      EXPECT_GE(token, 0);
      EXPECT_LT(token, signature.vocab_size);
    }
    for (const int64_t target : batch.targets)
      EXPECT_TRUE(target == kIgnoredTarget || (target >= 0 && target < signature.classes));
    for (const int64_t length : batch.lengths) EXPECT_TRUE(length >= 1 && length <= batch.steps);
  }
}

TEST(TaskRegistryTest, EveryPresetBuildsAndIsReplacedByWhatItStandsFor) {
  for (const TaskEntry& entry : Tasks()) {
    for (const TaskPreset& preset : entry.presets) {
      SCOPED_TRACE(absl::StrCat(entry.name, " ", preset.name));
      EXPECT_FALSE(preset.meaning.empty());
      Settings given;
      given.Set("preset", preset.name);
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings expanded, ExpandPreset(entry, given));
      EXPECT_FALSE(expanded.Has("preset"));
      if (entry.data.need == TaskData::Need::kRequired) continue;
      EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task, MakeTask(entry.name, {.parameters = given}));
      EIGSVC_ASSERT_OK_AND_ASSIGN(const auto again, MakeTask(entry.name, {.parameters = expanded}));
      EXPECT_EQ(task->parameters().ToJson(), again->parameters().ToJson());
      // A preset leaves nothing of what another one, or a checkpoint, had set.
      for (const std::string& key : task->parameters().Keys()) EXPECT_TRUE(expanded.Has(key)) << key;
    }
  }
  Settings given;
  given.Set("preset", "zoologie-64");
  EXPECT_THAT(
      MakeTask("mqar", {.parameters = given}),
      StatusIs(StatusCode::kNotFound, AllOf(HasSubstr("preset of task mqar"), HasSubstr("zoology-64"))));
  given.Set("preset", "zoology-64");
  given.Set("test_examples", int64_t{12});  // what stands beside a preset wins
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task, MakeTask("mqar", {.parameters = given}));
  EXPECT_EQ(task->example_count(Split::kTest), 12);
  EXPECT_FALSE(task->parameters().Bool("random_non_queries").value());
}

TEST(TaskRegistryTest, DrawRefusesWhatTheSplitDoesNotHold) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto task, MakeTask("mqar", {}));
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
