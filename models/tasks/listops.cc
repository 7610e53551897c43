#include "models/tasks/listops.h"

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "models/base/random.h"
#include "models/base/sha256.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/tasks/listops_expression.h"
#include "models/tasks/parameters.h"
#include "models/tasks/readers/data_files.h"
#include "models/tasks/scoring.h"
#include "models/tasks/token_rows.h"

namespace eigsvc {
namespace {

constexpr uint64_t kListOpsStream = 0x6c6973746f7073;  // "listops"
constexpr int64_t kListOpsEos = 2, kFirstSymbol = 3;   // 0 <pad>, 1 <unk>
constexpr int64_t kClasses = 10;
constexpr int64_t kMaxDepth = 64, kMaxArgs = 1000;
constexpr int64_t kMaxBytes = int64_t{4} << 30;  // of a file's expressions in memory
constexpr int kMaxAttempts = 1000000;  // draws for one example; Long Range Arena's takes about a hundred

using Ranks = std::array<int64_t, kListOpsSymbols.size()>;  // by symbol code: its place in the vocabulary

class ListOps : public Task {
 public:
  absl::string_view name() const override { return "listops"; }
  const Settings& parameters() const override { return settings_; }
  const TaskSignature& signature() const override { return signature_; }

  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    EIGSVC_RETURN_IF_ERROR(CheckExampleRange(*this, split, first, count));
    std::vector<std::vector<int64_t>> rows(count);
    std::vector<int64_t> targets;
    ListOpsExpression expression;
    for (int64_t row = 0; row < count; ++row) {
      EIGSVC_RETURN_IF_ERROR(Get(split, first + row, &expression));
      const int64_t kept = std::min(static_cast<int64_t>(expression.symbols.size()), max_tokens_ - 1);
      for (int64_t i = 0; i < kept; ++i) rows[row].push_back(kFirstSymbol + ranks_[expression.symbols[i]]);
      rows[row].push_back(kListOpsEos);
      targets.push_back(expression.value);
    }
    Batch batch = PadTokens(rows);
    batch.targets = std::move(targets);
    return batch;
  }

  Score ComputeScore(Split, absl::Span<const Prediction> predictions) const override {
    return ClassificationScore(predictions);
  }

 protected:
  ListOps(Settings settings, int64_t max_tokens, const Ranks& ranks)
      : settings_(std::move(settings)), max_tokens_(max_tokens), ranks_(ranks) {
    signature_.vocab_size = kFirstSymbol + static_cast<int64_t>(kListOpsSymbols.size());
    signature_.classes = kClasses;
    signature_.per_sequence = true;
  }
  // REQUIRES: index < example_count(split).
  virtual absl::Status Get(Split split, int64_t index, ListOpsExpression* expression) const = 0;

 private:
  const Settings settings_;
  const int64_t max_tokens_;
  const Ranks ranks_;
  TaskSignature signature_;
};

// ---- Drawn by the generator.

struct Generator {
  ListOpsLimits limits;
  int64_t train_examples = 0, test_examples = 0;
  uint64_t seed = 0;
};

// Each expression belongs to one split, by a bit of its digest: whatever the lengths, no expression of the
// test split can be drawn for the train split.
Split SplitOf(const ListOpsExpression& expression) {
  const std::string digest = Sha256::Of(absl::MakeConstSpan(
      reinterpret_cast<const std::byte*>(expression.symbols.data()), expression.symbols.size()));
  return digest[0] % 2 == 0 ? Split::kTrain : Split::kTest;  // true of half of the 16 digits
}

class DrawnListOps final : public ListOps {
 public:
  DrawnListOps(const Generator& generator, Settings settings, int64_t max_tokens, const Ranks& ranks)
      : ListOps(std::move(settings), max_tokens, ranks), generator_(generator) {}

  int64_t example_count(Split split) const override {
    return split == Split::kTrain ? generator_.train_examples : generator_.test_examples;
  }

 private:
  absl::Status Get(Split split, int64_t index, ListOpsExpression* expression) const override {
    Random random(
        {kListOpsStream, generator_.seed, static_cast<uint64_t>(split), static_cast<uint64_t>(index)});
    for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
      if (DrawListOps(random, generator_.limits, expression) && SplitOf(*expression) == split)
        return absl::OkStatus();
    }
    return absl::ResourceExhaustedError(
        absl::StrCat("listops: no expression longer than ", generator_.limits.min_length,
                     " and shorter than ", generator_.limits.max_length, " symbols came up in ", kMaxAttempts,
                     " draws; widen min_length and max_length, or raise max_depth or max_args"));
  }

  const Generator generator_;
};

// ---- Read from the benchmark's files.

struct Expressions {
  TokenRows<uint8_t> symbols;
  std::vector<uint8_t> values;
};

class ReadListOps final : public ListOps {
 public:
  ReadListOps(Expressions train, Expressions test, Settings settings, int64_t max_tokens, const Ranks& ranks)
      : ListOps(std::move(settings), max_tokens, ranks), train_(std::move(train)), test_(std::move(test)) {}

  int64_t example_count(Split split) const override { return Of(split).symbols.size(); }

 private:
  const Expressions& Of(Split split) const { return split == Split::kTrain ? train_ : test_; }
  absl::Status Get(Split split, int64_t index, ListOpsExpression* expression) const override {
    const absl::Span<const uint8_t> symbols = Of(split).symbols[index];
    expression->symbols.assign(symbols.begin(), symbols.end());
    expression->value = Of(split).values[index];
    return absl::OkStatus();
  }

  const Expressions train_, test_;
};

// Rows of "Source TAB Target" or the other way round, as the first line says; without such a line, as the
// first row shows.
absl::Status ReadTsv(ByteStream& stream, Expressions* expressions) {
  LineReader lines(stream);
  absl::string_view line;
  std::optional<int> target_column;
  while (true) {
    EIGSVC_ASSIGN_OR_RETURN(const bool more, lines.Next(&line));
    if (!more) break;
    if (line.empty()) continue;
    const std::vector<absl::string_view> columns = absl::StrSplit(line, '\t');
    if (columns.size() != 2) {
      return absl::InvalidArgumentError(
          absl::StrCat(lines.Where(), ": ", columns.size(), " columns; a row is Source, tab, Target"));
    }
    if (!target_column) {
      if (line == "Source\tTarget" || line == "Target\tSource") {
        target_column = columns[0] == "Target" ? 0 : 1;
        continue;
      }
      target_column = columns[0].size() == 1 ? 0 : 1;
    }
    const absl::string_view target = columns[*target_column];
    if (target.size() != 1 || target[0] < '0' || target[0] > '9') {
      return absl::InvalidArgumentError(
          absl::StrCat(lines.Where(), ": the label is \"", target.substr(0, 24), "\"; it must be a digit"));
    }
    const absl::StatusOr<ListOpsExpression> parsed = ParseListOps(columns[1 - *target_column]);
    if (!parsed.ok()) return Annotate(parsed.status(), lines.Where());
    if (parsed->value != target[0] - '0') {
      return absl::InvalidArgumentError(absl::StrCat(lines.Where(), ": the label says ", target,
                                                     ", but the expression's value is ", parsed->value,
                                                     "; the file is damaged, or its operators are others"));
    }
    expressions->symbols.Append(parsed->symbols);
    expressions->values.push_back(static_cast<uint8_t>(parsed->value));
    if (expressions->symbols.bytes() > kMaxBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat(lines.Where(), ": more than ", kMaxBytes, " bytes of expressions; cut the file"));
    }
  }
  if (expressions->symbols.size() == 0) {
    return absl::InvalidArgumentError(absl::StrCat(stream.name(), " holds no expressions"));
  }
  return absl::OkStatus();
}

// basic_train.tsv and basic_test.tsv of a directory or archive; a single file of another name is a test
// split.
absl::Status ReadFiles(const TaskRequest& request, bool read_train, Expressions* train, Expressions* test) {
  bool other_name = false;
  EIGSVC_RETURN_IF_ERROR(VisitDataFiles(
      request.data_path,
      [&](absl::string_view name) {
        const absl::string_view base = BaseNameOf(name);
        return (base == "basic_train.tsv" && read_train) || (base == "basic_test.tsv" && request.test);
      },
      [&](absl::string_view name, ByteStream& stream) {
        const bool is_train = BaseNameOf(name) == "basic_train.tsv";
        other_name |= !is_train && BaseNameOf(name) != "basic_test.tsv";
        Expressions* expressions = is_train ? train : test;
        if (expressions->symbols.size() > 0) return RepeatedDataFile("listops", stream.name());
        return ReadTsv(stream, expressions);
      },
      request.stop));
  if (request.train && train->symbols.size() == 0 && !other_name) {
    return MissingDataFile("listops", request.data_path, "basic_train.tsv");
  }
  if (request.test && test->symbols.size() == 0) {
    return MissingDataFile("listops", request.data_path, "basic_test.tsv");
  }
  return absl::OkStatus();
}

// ---- The vocabulary: the 15 symbols in the order of their ids.

std::string CanonicalVocabulary() { return absl::StrJoin(kListOpsSymbols, " "); }

// By falling frequency, ties by name, as torchtext orders a vocabulary.
std::string VocabularyOf(const Expressions& train, int64_t max_tokens) {
  std::array<int64_t, kListOpsSymbols.size()> counts{};
  for (int64_t row = 0; row < train.symbols.size(); ++row) {
    absl::Span<const uint8_t> symbols = train.symbols[row];
    for (const uint8_t symbol : symbols.subspan(0, max_tokens - 1)) ++counts[symbol];
  }
  std::vector<size_t> order(kListOpsSymbols.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::make_pair(-counts[a], kListOpsSymbols[a]) < std::make_pair(-counts[b], kListOpsSymbols[b]);
  });
  std::vector<absl::string_view> symbols;
  for (const size_t symbol : order) symbols.push_back(kListOpsSymbols[symbol]);
  return absl::StrJoin(symbols, " ");
}

absl::StatusOr<Ranks> RanksOf(absl::string_view vocabulary) {
  const std::vector<absl::string_view> symbols = absl::StrSplit(vocabulary, ' ', absl::SkipEmpty());
  Ranks ranks;
  for (size_t code = 0; code < kListOpsSymbols.size(); ++code) {
    const auto found = std::find(symbols.begin(), symbols.end(), kListOpsSymbols[code]);
    ranks[code] = found - symbols.begin();
    if (found == symbols.end() || symbols.size() != kListOpsSymbols.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("listops: vocabulary must hold each of these once, in the order of the ids: ",
                       CanonicalVocabulary()));
    }
  }
  return ranks;
}

absl::StatusOr<std::shared_ptr<const Task>> MakeListOps(const TaskRequest& request) {
  ParameterReader reader("listops", request.parameters);
  const int64_t max_tokens = reader.Int("max_tokens", 2048, 2, kMaxTaskSteps);
  std::string vocabulary = reader.Text("vocabulary", "");
  if (!request.data_path.empty()) {
    EIGSVC_RETURN_IF_ERROR(reader.status());
    Expressions train, test;
    // The vocabulary comes from the train split, whichever split is drawn.
    EIGSVC_RETURN_IF_ERROR(ReadFiles(request, request.train || vocabulary.empty(), &train, &test));
    if (vocabulary.empty()) {
      vocabulary = train.symbols.size() > 0 ? VocabularyOf(train, max_tokens) : CanonicalVocabulary();
    }
    if (!request.train) train = {};
    EIGSVC_ASSIGN_OR_RETURN(const Ranks ranks, RanksOf(vocabulary));
    reader.resolved().Set("vocabulary", absl::string_view(vocabulary));
    return std::make_shared<const ReadListOps>(std::move(train), std::move(test), reader.resolved(),
                                               max_tokens, ranks);
  }
  Generator generator;
  generator.seed = request.seed;
  ListOpsLimits& limits = generator.limits;
  limits.min_length = reader.Int("min_length", 500, 0, kMaxTaskSteps);
  limits.max_length = reader.Int("max_length", 2000, 2, kMaxTaskSteps);
  limits.max_depth = reader.Int("max_depth", 10, 1, kMaxDepth);
  limits.max_args = reader.Int("max_args", 10, 2, kMaxArgs);
  generator.train_examples = reader.Int("train_examples", 96000, 0, kMaxTaskExamples);
  generator.test_examples = reader.Int("test_examples", 2000, 1, kMaxTaskExamples);
  if (limits.max_length < limits.min_length + 2) {
    reader.Fail(absl::StrCat("no length lies between min_length, ", limits.min_length, ", and max_length, ",
                             limits.max_length, ", both exclusive"));
  }
  if (limits.LongestPossible() <= limits.min_length) {
    reader.Fail(absl::StrCat("min_length is ", limits.min_length, ", but an expression of depth ",
                             limits.max_depth, " with ", limits.max_args, " arguments has at most ",
                             limits.LongestPossible(), " symbols"));
  }
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (vocabulary.empty()) vocabulary = CanonicalVocabulary();
  EIGSVC_ASSIGN_OR_RETURN(const Ranks ranks, RanksOf(vocabulary));
  reader.resolved().Set("vocabulary", absl::string_view(vocabulary));
  return std::make_shared<const DrawnListOps>(generator, reader.resolved(), max_tokens, ranks);
}

}  // namespace

TaskEntry ListOpsEntry() {
  return {
      "listops",
      "the value of a nested expression such as [MAX 2 9 [MIN 4 7 ] 0 ] (Long Range Arena)",
      "accuracy",
      {{"max_tokens", "integer", "2048", "tokens of a sequence, <eos> included; longer ones are cut"},
       {"vocabulary", "text", "X 0 1 2 3 4 5 6 7 8 9 [MAX [MED [MIN [SM",
        "the symbols in the order of their ids, from 3; X stands for ]. With a train split in files: by "
        "falling "
        "frequency there"},
       {"min_length", "integer", "500", "without --data: expressions are longer than that"},
       {"max_length", "integer", "2000", "without --data: expressions are shorter than that"},
       {"max_depth", "integer", "10", "without --data: depth of the trees"},
       {"max_args", "integer", "10", "without --data: arguments of an operator, 2 to that"},
       {"train_examples", "integer", "96000", "without --data: examples of the train split"},
       {"test_examples", "integer", "2000", "without --data: examples of the test split"}},
      /*presets=*/{},
      {TaskData::Need::kOptional,
       /*names=*/{},
       {{"lra_release.gz", "",
         "Long Range Arena's release, a gzipped tar of 7.7 GB that holds the files below"},
        {"listops-1000/basic_train.tsv", "", "96,000 rows"},
        {"listops-1000/basic_test.tsv", "", "2,000 rows"}},
       "a directory or archive that holds basic_train.tsv (for training) and basic_test.tsv (for tests), or "
       "one "
       ".tsv file, a test split. Columns Source and Target in either order. Without --data, expressions are "
       "drawn by the benchmark's own rules."},
      MakeListOps};
}

}  // namespace eigsvc
