#include "models/tasks/mqar.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/base/random.h"
#include "models/base/status_macros.h"
#include "models/tasks/parameters.h"
#include "models/tasks/scoring.h"

namespace eigsvc {
namespace {

constexpr uint64_t kMqarStream = 0x6d716172;  // "mqar"; part of every example's key
constexpr double kMaxPower = 16;

// Examples of one length and number of pairs. A split is a row of them; they are served in that order.
struct Segment {
  int64_t steps = 0, pairs = 0, examples = 0;
};

struct MqarParameters {
  int64_t vocab_size = 0, num_passes = 0;
  double power_a = 0;
  bool random_non_queries = true;
  std::vector<Segment> train, test;

  const std::vector<Segment>& segments(Split split) const { return split == Split::kTrain ? train : test; }
  int64_t context_steps(const Segment& segment) const { return 2 * segment.pairs * num_passes; }
};

// "64x4:1000 128x8:500": length x pairs : examples.
std::vector<Segment> ReadMix(ParameterReader& reader, absl::string_view name) {
  std::vector<Segment> segments;
  const std::string text = reader.Text(name, "");
  for (const absl::string_view part : absl::StrSplit(text, absl::ByAnyChar(" ,"), absl::SkipEmpty())) {
    const std::vector<absl::string_view> numbers = absl::StrSplit(part, absl::ByAnyChar("x:"));
    Segment segment;
    if (numbers.size() != 3 || !absl::SimpleAtoi(numbers[0], &segment.steps) ||
        !absl::SimpleAtoi(numbers[1], &segment.pairs) || !absl::SimpleAtoi(numbers[2], &segment.examples) ||
        segment.steps < 4 || segment.steps > kMaxTaskSteps || segment.pairs < 1 ||
        segment.pairs > kMaxTaskSteps || segment.examples < 1 || segment.examples > kMaxTaskExamples ||
        segments.size() == 1000) {
      reader.Fail(
          absl::StrCat(name, ": \"", part.substr(0, 64),
                       "\" is no segment; write LENGTHxPAIRS:EXAMPLES, such as 64x4:1000, at most 1000 "
                       "of them separated by blanks"));
      return {};
    }
    segments.push_back(segment);
  }
  return segments;
}

void CheckSegment(const MqarParameters& p, const Segment& segment, ParameterReader& reader) {
  if (segment.steps % 2 != 0) {
    reader.Fail(absl::StrCat("input_seq_len is ", segment.steps, "; it must be even"));
  }
  if (p.vocab_size <= segment.steps) {
    reader.Fail(absl::StrCat("vocab_size is ", p.vocab_size, "; it must exceed input_seq_len, which is ",
                             segment.steps));
  }
  const int64_t needed = p.context_steps(segment) + 2 * segment.pairs;
  if (needed > segment.steps) {
    reader.Fail(absl::StrCat(segment.pairs, " pairs shown ", p.num_passes,
                             " times and asked once need input_seq_len >= ", needed, ", which is ",
                             segment.steps, "; raise it or lower num_kv_pairs or num_passes"));
  }
}

MqarParameters ReadMqarParameters(ParameterReader& reader) {
  MqarParameters p;
  const int64_t steps = reader.Int("input_seq_len", 64, 4, kMaxTaskSteps);
  p.vocab_size = reader.Int("vocab_size", 8192, 5, kMaxTaskVocabulary);
  const int64_t pairs = reader.Int("num_kv_pairs", 4, 1, kMaxTaskSteps);
  p.num_passes = reader.Int("num_passes", 1, 1, kMaxTaskSteps);
  p.power_a = reader.Real("power_a", 0.01, -kMaxPower, kMaxPower);
  p.random_non_queries = reader.Bool("random_non_queries", true);
  const int64_t train_examples = reader.Int("train_examples", 100000, 0, kMaxTaskExamples);
  const int64_t test_examples = reader.Int("test_examples", 3000, 1, kMaxTaskExamples);
  p.train = ReadMix(reader, "train_mix");
  p.test = ReadMix(reader, "test_mix");
  if (p.train.empty()) p.train = {{steps, pairs, train_examples}};
  if (p.test.empty()) p.test = {{steps, pairs, test_examples}};
  for (const std::vector<Segment>* segments : {&p.train, &p.test}) {
    for (const Segment& segment : *segments) CheckSegment(p, segment, reader);
  }
  return p;
}

// `count` distinct integers of [low, high), every ordered choice equally likely. At most half of the range is
// ever asked for (4N <= L < V), so a redraw is rare.
std::vector<int64_t> DrawDistinct(Random& random, int64_t count, int64_t low, int64_t high) {
  std::vector<int64_t> drawn;
  absl::flat_hash_set<int64_t> seen;
  while (static_cast<int64_t>(drawn.size()) < count) {
    const int64_t value = low + static_cast<int64_t>(random.Below(static_cast<uint64_t>(high - low)));
    if (seen.insert(value).second) drawn.push_back(value);
  }
  return drawn;
}

class Mqar final : public Task {
 public:
  Mqar(MqarParameters p, Settings settings, uint64_t seed)
      : p_(std::move(p)), settings_(std::move(settings)), seed_(seed) {
    signature_.vocab_size = signature_.classes = p_.vocab_size;
    int64_t slots = 0;
    for (const Split split : {Split::kTrain, Split::kTest}) {
      for (const Segment& segment : p_.segments(split)) slots = std::max(slots, Slots(segment));
    }
    slot_rates_.reserve(slots);
    for (int64_t j = 0; j < slots; ++j) slot_rates_.push_back(std::pow(j + 1.0, p_.power_a - 1.0));
  }

  absl::string_view name() const override { return "mqar"; }
  const Settings& parameters() const override { return settings_; }
  const TaskSignature& signature() const override { return signature_; }
  int64_t example_count(Split split) const override {
    int64_t count = 0;
    for (const Segment& segment : p_.segments(split)) count += segment.examples;
    return count;
  }

  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    EIGSVC_RETURN_IF_ERROR(CheckExampleRange(*this, split, first, count));
    Batch batch;
    batch.rows = count;
    for (int64_t row = 0; row < count; ++row) {
      batch.lengths.push_back(SegmentOf(split, first + row).steps);
      batch.steps = std::max(batch.steps, batch.lengths.back());
    }
    batch.tokens.assign(count * batch.steps, 0);
    batch.targets.assign(count * batch.steps, kIgnoredTarget);
    for (int64_t row = 0; row < count; ++row) {
      FillExample(split, first + row, batch.tokens.data() + row * batch.steps,
                  batch.targets.data() + row * batch.steps);
    }
    return batch;
  }

  Score ComputeScore(Split split, absl::Span<const Prediction> predictions) const override {
    Score score = MeanExampleAccuracy(predictions);
    if (p_.segments(split).size() == 1) return score;
    std::map<std::pair<int64_t, int64_t>, std::vector<Prediction>> by_kind;
    for (const Prediction& prediction : predictions) {
      const Segment& segment = SegmentOf(split, prediction.example);
      by_kind[{segment.steps, segment.pairs}].push_back(prediction);
    }
    for (const auto& [kind, part] : by_kind) {
      score.also.emplace_back(absl::StrCat("accuracy ", kind.first, "x", kind.second),
                              MeanExampleAccuracy(part).value);
    }
    return score;
  }

 private:
  int64_t Slots(const Segment& segment) const { return (segment.steps - p_.context_steps(segment)) / 2; }

  // REQUIRES: index < example_count(split).
  const Segment& SegmentOf(Split split, int64_t index) const {
    const std::vector<Segment>& segments = p_.segments(split);
    size_t i = 0;
    while (i + 1 < segments.size() && index >= segments[i].examples) index -= segments[i++].examples;
    return segments[i];
  }

  // The split is part of the key of the stream, so train and test share nothing.
  void FillExample(Split split, int64_t index, int64_t* tokens, int64_t* targets) const {
    const Segment& segment = SegmentOf(split, index);
    Random random({kMqarStream, seed_, static_cast<uint64_t>(split), static_cast<uint64_t>(index)});
    const std::vector<int64_t> keys = DrawDistinct(random, segment.pairs, 1, p_.vocab_size / 2);
    const std::vector<int64_t> values = DrawDistinct(random, segment.pairs, p_.vocab_size / 2, p_.vocab_size);
    const std::vector<int64_t> slots = DrawSlots(random, segment);
    const int64_t context = p_.context_steps(segment);
    for (int64_t step = 0; step < context; ++step) {
      const int64_t pair = step / 2 % segment.pairs;
      tokens[step] = step % 2 == 0 ? keys[pair] : values[pair];
    }
    if (p_.random_non_queries) {
      for (int64_t step = context; step < segment.steps; ++step) {
        tokens[step] = static_cast<int64_t>(random.Below(p_.vocab_size));
      }
    }
    for (int64_t pair = 0; pair < segment.pairs; ++pair) {
      const int64_t step = context + 2 * slots[pair];
      tokens[step] = keys[pair];
      targets[step] = values[pair];
    }
  }

  // N of the S slots, drawn one after the other without replacement with p_j ∝ (j+1)^(a-1), renormalised
  // after each draw. Independent exponential clocks of rates p_j ring in exactly that law's order
  // (Plackett-Luce), which costs O(S log N) where redrawing costs O(S N).
  std::vector<int64_t> DrawSlots(Random& random, const Segment& segment) const {
    std::vector<std::pair<double, int64_t>> rings;
    const int64_t count = Slots(segment);
    rings.reserve(count);
    for (int64_t j = 0; j < count; ++j) rings.emplace_back(-std::log1p(-random.Unit()) / slot_rates_[j], j);
    std::partial_sort(rings.begin(), rings.begin() + segment.pairs, rings.end());
    std::vector<int64_t> slots;
    for (int64_t i = 0; i < segment.pairs; ++i) slots.push_back(rings[i].second);
    return slots;
  }

  const MqarParameters p_;
  const Settings settings_;
  const uint64_t seed_;
  TaskSignature signature_;
  std::vector<double> slot_rates_;  // of the longest segment; a shorter one uses the first of them
};

absl::StatusOr<std::shared_ptr<const Task>> MakeMqar(const TaskRequest& request) {
  ParameterReader reader("mqar", request.parameters);
  MqarParameters p = ReadMqarParameters(reader);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  return std::make_shared<const Mqar>(std::move(p), reader.resolved(), request.seed);
}

// Complete, so that a preset leaves nothing of what a checkpoint recorded.
#define MQAR_PRESET(steps, pairs, random_fillers, train_mix, test_mix)                   \
  R"({"vocab_size": 8192, "power_a": 0.01, "num_passes": 1, "train_examples": 100000, )" \
  R"("test_examples": 3000, "input_seq_len": )" steps R"(, "num_kv_pairs": )" pairs      \
  R"(, "random_non_queries": )" random_fillers R"(, "train_mix": ")" train_mix           \
  R"(", "test_mix": ")" test_mix R"("})"

}  // namespace

TaskEntry MqarEntry() {
  return {
      "mqar",
      "multi-query associative recall: name the value that followed each key (zoology; arXiv 2312.04927)",
      "accuracy",
      {{"vocab_size", "integer", "8192", "V; keys are 1..V/2-1, values V/2..V-1; must exceed input_seq_len"},
       {"input_seq_len", "integer", "64", "L; even, at least 2·num_kv_pairs·(num_passes + 1)"},
       {"num_kv_pairs", "integer", "4", "N; pairs shown and asked in each example"},
       {"power_a", "real", "0.01", "slot j is drawn with weight (j+1)^(a-1); 1 is uniform"},
       {"random_non_queries", "boolean", "true", "fillers of the query area are random tokens, else 0"},
       {"num_passes", "integer", "1", "P; how often the pairs are shown"},
       {"train_examples", "integer", "100000", "examples of the train split"},
       {"test_examples", "integer", "3000", "examples of the test split"},
       {"train_mix", "text", "",
        "segments L x N : examples of the train split, such as 64x4:1000 128x8:500, "
        "served in that order; empty: one, of the parameters above"},
       {"test_mix", "text", "", "the same of the test split; the score is the mean over all examples"}},
      {{"zoology-64", MQAR_PRESET("64", "4", "false", "", ""), "Figure 2 of arXiv 2312.04927, L = 64"},
       {"zoology-128", MQAR_PRESET("128", "8", "false", "", ""), "the same, L = 128"},
       {"zoology-256", MQAR_PRESET("256", "16", "false", "", ""), "the same, L = 256"},
       {"zoology-512", MQAR_PRESET("512", "64", "false", "", ""), "the same, L = 512"},
       {"based",
        MQAR_PRESET("64", "4", "true", "64x4:100000 128x8:20000 256x16:20000 256x32:20000 256x64:20000",
                    "64x4:1000 64x8:1000 64x16:1000 128x32:1000 256x64:1000 512x128:1000 1024x256:1000"),
        "Figure 2 of arXiv 2402.18668: short training, tests up to four times as long"},
       {"eigenvalues", MQAR_PRESET("512", "64", "true", "", ""),
        "arXiv 2510.09379 (its test keys repeat those of its train split; these do not)"}},
      /*data=*/{},
      MakeMqar};
}

}  // namespace eigsvc
