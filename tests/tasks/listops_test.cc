// ListOps against the labels of real rows, which are an independent evaluation, and the generator against its
// description (shared data/listops/README.md).
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "models/base/sha256.h"
#include "models/tasks/listops_expression.h"
#include "models/tasks/task.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<std::shared_ptr<const Task>> Make(const std::string& json, const std::string& data_path = "",
                                                 uint64_t seed = 1) {
  return MakeTask("listops", {.parameters = Settings::Parse(json, "test").value(),
                              .seed = seed,
                              .data_path = data_path,
                              .train = data_path.empty()});
}

std::string Write(const std::string& name, const std::string& contents) {
  const std::string path =
      absl::StrCat(::testing::TempDir(), "listops_",
                   ::testing::UnitTest::GetInstance()->current_test_info()->name(), "/", name);
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << contents;
  return path;
}

std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

TEST(ListOpsTest, ReproducesEveryLabelOfTheRealRows) {
  EIGSVC_REQUIRE_SHARED();
  // A row whose label differs from its recomputed value is an error, so that reading is the comparison.
  const std::pair<const char*, int64_t> files[] = {{"nyu_d20s_test.tsv", 10000},
                                                   {"balloutai_basic_test_head.tsv", 8},
                                                   {"lra_style_generated/basic_test.tsv", 400},
                                                   {"lra_style_generated/basic_val.tsv", 100}};
  for (const auto& [name, rows] : files) {
    SCOPED_TRACE(name);
    const std::string path = testing::SharedPath(absl::StrCat("data/listops/", name));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task, Make("{}", path));
    ASSERT_EQ(task->example_count(Split::kTest), rows);
    EXPECT_EQ(task->example_count(Split::kTrain), 0);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTest, 0, rows));
    // The same rows by another road: the label's column and a count of what is no parenthesis.
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    const int target_column = absl::StartsWith(line, "Target") ? 0 : 1;
    for (int64_t row = 0; std::getline(file, line); ++row) {
      const std::vector<std::string> columns = absl::StrSplit(absl::StripTrailingAsciiWhitespace(line), '\t');
      ASSERT_EQ(batch.targets[row], std::stoi(columns[target_column])) << "row " << row;
      int64_t symbols = 0;
      std::istringstream words(columns[1 - target_column]);
      for (std::string word; words >> word;) symbols += word != "(" && word != ")";
      ASSERT_EQ(batch.lengths[row], symbols + 1) << "row " << row;
    }
  }
}

TEST(ListOpsTest, AWrongLabelIsNamedByItsLine) {
  EIGSVC_REQUIRE_SHARED();
  std::string text = ReadBytes(testing::SharedPath("data/listops/nyu_d20s_test.tsv"));
  size_t line = 1, at = 0;
  while (line < 5001) line += text[at++] == '\n';
  text[at] = text[at] == '9' ? '8' : text[at] + 1;
  const std::string path = Write("wrong.tsv", text);
  EXPECT_THAT(Make("{}", path), StatusIs(StatusCode::kInvalidArgument,
                                         AllOf(HasSubstr(absl::StrCat(path, ", line 5001 (byte ", at, ")")),
                                               HasSubstr("the label says"))));
}

TEST(ListOpsTest, TokensAreTheSymbolsWithoutParenthesesAndEos) {
  const std::string text = "Source\tTarget\r\n( ( ( [MAX 2 ) ( ( [SM 9 ) ] ) ) ] )\t9\r\n7\t7\r\n";
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task, Make("{}", Write("a.tsv", text)));
  EXPECT_EQ(task->signature().vocab_size, 18);
  EXPECT_EQ(task->signature().classes, 10);
  EXPECT_EQ(task->signature().channels, 0);
  EXPECT_TRUE(task->signature().per_sequence);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTest, 0, 2));
  EXPECT_EQ(batch.steps, 7);
  EXPECT_EQ(batch.target_steps(), 1);
  EXPECT_THAT(batch.targets, ElementsAre(9, 7));
  EXPECT_THAT(batch.lengths, ElementsAre(7, 2));
  EXPECT_THAT(batch.tokens, ElementsAre(14, 6, 17, 13, 3, 3, 2, /**/ 11, 2, 0, 0, 0, 0, 0));

  // Both orders of the columns, with and without their names, with and without parentheses.
  for (const char* same : {"Target\tSource\n9\t[MAX 2 [SM 9 ] ]\n7\t7\n", "9\t[MAX 2 [SM 9 ] ]\n\n7\t7",
                           "[MAX 2 [SM 9 ] ]\t9\n7\t7\n"}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto again, Make("{}", Write("b.tsv", same)));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch other, again->Draw(Split::kTest, 0, 2));
    EXPECT_EQ(other.tokens, batch.tokens) << same;
    EXPECT_EQ(other.targets, batch.targets) << same;
  }
  // Cut to max_tokens with <eos> as the last.
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto cut, Make(R"({"max_tokens": 4})", Write("a.tsv", text)));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch short_batch, cut->Draw(Split::kTest, 0, 1));
  EXPECT_THAT(short_batch.tokens, ElementsAre(14, 6, 17, 2));
}

TEST(ListOpsTest, TheVocabularyFollowsTheTrainSplitAndIsRecorded) {
  // Counts in train: 5 five times, ] twice, [MIN, [SM and 0 once; the rest by name.
  Write("lra/basic_train.tsv", "Source\tTarget\n[MIN 5 5 5 ]\t5\n[SM 5 5 0 ]\t0\n");
  Write("lra/basic_test.tsv", "Source\tTarget\n[MED 5 0 ]\t2\n");
  const std::string directory = std::filesystem::path(Write("lra/note.txt", "")).parent_path().string();
  const std::string expected = "5 X 0 [MIN [SM 1 2 3 4 6 7 8 9 [MAX [MED";
  for (const bool train : {true, false}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task,
                                MakeTask("listops", {.data_path = directory, .train = train}));
    EXPECT_EQ(task->parameters().Text("vocabulary").value(), expected);
    EXPECT_EQ(task->example_count(Split::kTrain), train ? 2 : 0);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTest, 0, 1));
    EXPECT_THAT(batch.tokens, ElementsAre(17, 3, 5, 4, 2));
  }
  // Recorded in a checkpoint, it holds for the generator too.
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto drawn, Make(absl::StrCat(R"({"vocabulary": ")", expected, R"("})")));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto plain, Make("{}"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch a, drawn->Draw(Split::kTest, 0, 1));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch b, plain->Draw(Split::kTest, 0, 1));
  const std::vector<std::string> names = absl::StrSplit(expected, ' ');
  ASSERT_EQ(a.tokens.size(), b.tokens.size());
  for (size_t i = 0; i + 1 < a.tokens.size(); ++i)
    EXPECT_EQ(names[a.tokens[i] - 3], kListOpsSymbols[b.tokens[i] - 3]);
}

TEST(ListOpsTest, BadFilesAreNamed) {
  struct Case {
    const char *text, *message;
    StatusCode code = StatusCode::kInvalidArgument;
  };
  const Case cases[] = {
      {"Source\tTarget\n[MAX 2 3 ]\t3\n[MAX 2 3 ]\t2\n",
       "line 3 (byte 27): the label says 2, but the expression's value is 3"},
      {"Source\tTarget\n[FIRST 2 3 ]\t3\n", "line 2 (byte 14): symbol 1: \"[FIRST\" is none of"},
      {"Source\tTarget\n[MAX 2 12 ]\t3\n", "\"12\" is none of"},
      {"Source\tTarget\n[MAX 2 3\t3\n", "1 operators were never closed"},
      {"Source\tTarget\n[MAX ]\t3\n", "symbol 2: an operator without arguments"},
      {"Source\tTarget\n2 ]\t2\n", "after the end of the expression"},
      {"Source\tTarget\n]\t2\n", "a ']' that nothing opened"},
      {"Source\tTarget\n( ( [MAX 2 ) ]\t2\n", "parentheses were never closed"},
      {"Source\tTarget\n[MAX 2 ) ]\t2\n", "a ')' that nothing opened"},
      {"Source\tTarget\n\t2\n", "the expression is empty"},
      {"Source\tTarget\n[MAX 2 3 ]\t33\n", "the label is \"33\"; it must be a digit"},
      {"Source\tTarget\n[MAX 2 3 ]\n", "1 columns"},
      {"Source\tTarget\n", "holds no expressions"},
      {"", "holds no expressions"},
      {"\x89PNG\r\n\x1a\n", "columns"},
  };
  for (const Case& bad : cases) {
    EXPECT_THAT(Make("{}", Write("bad.tsv", bad.text)),
                StatusIs(bad.code, AllOf(HasSubstr("bad.tsv"), HasSubstr(bad.message))))
        << bad.text;
  }
  const std::string empty = std::filesystem::path(Write("empty/x", "")).parent_path().string();
  EXPECT_THAT(Make("{}", empty),
              StatusIs(StatusCode::kNotFound,
                       AllOf(HasSubstr("no basic_test.tsv"), HasSubstr("eigsvc tasks describe listops"))));
  EXPECT_THAT(MakeTask("listops", {.data_path = empty}),
              StatusIs(StatusCode::kNotFound, HasSubstr("no basic_train.tsv")));
  EXPECT_THAT(Make("{}", "/no/such/place"), StatusIs(StatusCode::kNotFound, HasSubstr("/no/such/place")));
}

TEST(ListOpsTest, BadParametersAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"min_length": 10, "max_length": 11})", "no length lies between"},
      {R"({"max_depth": 2, "max_args": 4, "min_length": 6, "max_length": 100})", "at most 6 symbols"},
      {R"({"max_args": 1})", "max_args is 1; it must lie in [2, 1000]"},
      {R"({"vocabulary": "X 0 1"})", "vocabulary must hold each of these once"},
      {R"({"vocabulary": "X X 0 1 2 3 4 5 6 7 8 9 [MAX [MED [MIN [SM"})", "vocabulary must hold"},
      {R"({"test_examples": 0})", "test_examples is 0"},
  };
  for (const auto& [json, message] : cases) {
    EXPECT_THAT(Make(json), StatusIs(StatusCode::kInvalidArgument, HasSubstr(message))) << json;
  }
  // Possible, but so rare that no draw finds it: an error and not a hang.
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto rare, Make(R"({"min_length": 100000, "max_length": 100002})"));
  EXPECT_THAT(rare->Draw(Split::kTest, 0, 1),
              StatusIs(StatusCode::kResourceExhausted, HasSubstr("widen min_length and max_length")));
}

// A second evaluator, by recursion over text.
int Evaluate(const std::vector<std::string>& words, size_t& at, int depth, int max_depth,
             std::vector<int>* arities) {
  EXPECT_LE(depth, max_depth);
  const std::string word = words[at++];
  if (word.size() == 1) return std::stoi(word);
  std::vector<int> values;
  while (words[at] != "X") values.push_back(Evaluate(words, at, depth + 1, max_depth, arities));
  ++at;
  arities->push_back(static_cast<int>(values.size()));
  std::sort(values.begin(), values.end());
  if (word == "[MAX") return values.back();
  if (word == "[MIN") return values.front();
  if (word == "[SM") {
    int sum = 0;
    for (const int value : values) sum += value;
    return sum % 10;
  }
  EXPECT_EQ(word, "[MED");
  const size_t n = values.size();
  return static_cast<int>(std::floor((values[(n - 1) / 2] + values[n / 2]) / 2.0));
}

TEST(ListOpsTest, DrawnExpressionsFollowTheDescription) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task, Make("{}"));
  for (const Split split : {Split::kTrain, Split::kTest}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(split, 0, 200));
    std::map<int64_t, int64_t> values, operators;
    for (int64_t row = 0; row < batch.rows; ++row) {
      std::vector<std::string> words;
      for (int64_t i = 0; i < batch.lengths[row] - 1; ++i) {
        const int64_t id = batch.tokens[row * batch.steps + i];
        ASSERT_GE(id, 3);
        words.emplace_back(kListOpsSymbols[id - 3]);
        if (words.back().size() > 1) ++operators[id];
      }
      EXPECT_EQ(batch.tokens[row * batch.steps + batch.lengths[row] - 1], 2);
      EXPECT_GT(words.size(), 500u);
      EXPECT_LT(words.size(), 2000u);
      size_t at = 0;
      std::vector<int> arities;
      ASSERT_EQ(Evaluate(words, at, 1, 10, &arities), batch.targets[row]) << "row " << row;
      EXPECT_EQ(at, words.size());
      EXPECT_GE(*std::min_element(arities.begin(), arities.end()), 2);
      EXPECT_LE(*std::max_element(arities.begin(), arities.end()), 10);
      ++values[batch.targets[row]];
    }
    EXPECT_EQ(values.size(), 10u);  // every class occurs
    EXPECT_EQ(operators.size(), 4u);
  }
}

// Without limits on the length, the law is known: a digit with probability 3/4; the root's operator uniform
// over 4, its number of arguments over 9.
TEST(ListOpsTest, TheGeneratorsLawIsTheBenchmarks) {
  const ListOpsLimits limits{.max_depth = 4, .max_args = 10, .min_length = 0, .max_length = int64_t{1} << 30};
  Random random({5});
  ListOpsExpression expression;
  constexpr int kDraws = 40000;
  int digits = 0;
  std::map<int, int> by_digit, by_operator, by_arity, deep;
  for (int i = 0; i < kDraws; ++i) {
    ASSERT_TRUE(DrawListOps(random, limits, &expression));
    std::vector<std::string> words;
    for (const uint8_t symbol : expression.symbols) words.emplace_back(kListOpsSymbols[symbol]);
    size_t at = 0;
    std::vector<int> arities;
    ASSERT_EQ(Evaluate(words, at, 1, 4, &arities), expression.value);
    if (words.size() == 1) {
      ++digits;
      ++by_digit[expression.value];
    } else {
      ++by_operator[expression.symbols[0]];
      ++by_arity[arities.back()];
    }
  }
  const auto expect_uniform = [](const std::map<int, int>& counts, size_t kinds) {
    EXPECT_EQ(counts.size(), kinds);
    double total = 0;
    for (const auto& [kind, count] : counts) total += count;
    for (const auto& [kind, count] : counts) {
      const double expected = total / static_cast<double>(kinds);
      EXPECT_NEAR(count, expected, 4.5 * std::sqrt(expected)) << kind;
    }
  };
  EXPECT_NEAR(digits, 0.75 * kDraws, 4.5 * std::sqrt(0.75 * 0.25 * kDraws));
  expect_uniform(by_digit, 10);
  expect_uniform(by_operator, 4);
  expect_uniform(by_arity, 9);
}

TEST(ListOpsTest, ExamplesDoNotDependOnBatchingOrThreads) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task, Make(R"({"min_length": 10, "max_length": 200})", "", 99));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch whole, task->Draw(Split::kTest, 0, 96));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t row = t; row < 96; row += 4) {
        const Batch one = task->Draw(Split::kTest, row, 1).value();
        ASSERT_EQ(one.targets[0], whole.targets[row]);
        ASSERT_EQ(one.lengths[0], whole.lengths[row]);
        ASSERT_TRUE(
            std::equal(one.tokens.begin(), one.tokens.end(), whole.tokens.begin() + row * whole.steps));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// The bytes themselves: a change of the generator, or a platform that draws others, shows here.
TEST(ListOpsTest, TheFirstExamplesArePinned) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task, Make("{}", "", 7));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTrain, 0, 64));
  EXPECT_EQ(Sha256::Of(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(batch.tokens.data()),
                                           batch.tokens.size() * sizeof(int64_t))),
            "3625fc315e4ff6e464c81e65f75e5daa7d9780af9757b294df463ea998e6ec8e");
}

}  // namespace
}  // namespace eigsvc
