#include "models/tasks/mqar.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "models/base/random.h"
#include "models/base/status_macros.h"
#include "models/tasks/scoring.h"

namespace eigsvc {
namespace {

constexpr uint64_t kMqarStream = 0x6d716172;  // "mqar"; part of every example's key
constexpr int64_t kMaxSteps = int64_t{1} << 20;
constexpr int64_t kMaxVocabulary = int64_t{1} << 31;
constexpr int64_t kMaxExamples = int64_t{1} << 40;
constexpr double kMaxPower = 16;

struct MqarParameters {
  int64_t vocab_size, input_seq_len, num_kv_pairs, num_passes, train_examples, test_examples;
  double power_a;
  bool random_non_queries;

  int64_t context_steps() const { return 2 * num_kv_pairs * num_passes; }
  int64_t slots() const { return (input_seq_len - context_steps()) / 2; }
};

absl::StatusOr<MqarParameters> ReadMqarParameters(const Settings& settings) {
  MqarParameters p;
  EIGSVC_ASSIGN_OR_RETURN(p.vocab_size, settings.IntOr("vocab_size", 8192));
  EIGSVC_ASSIGN_OR_RETURN(p.input_seq_len, settings.IntOr("input_seq_len", 64));
  EIGSVC_ASSIGN_OR_RETURN(p.num_kv_pairs, settings.IntOr("num_kv_pairs", 4));
  EIGSVC_ASSIGN_OR_RETURN(p.power_a, settings.RealOr("power_a", 0.01));
  EIGSVC_ASSIGN_OR_RETURN(p.random_non_queries, settings.BoolOr("random_non_queries", true));
  EIGSVC_ASSIGN_OR_RETURN(p.num_passes, settings.IntOr("num_passes", 1));
  EIGSVC_ASSIGN_OR_RETURN(p.train_examples, settings.IntOr("train_examples", 100000));
  EIGSVC_ASSIGN_OR_RETURN(p.test_examples, settings.IntOr("test_examples", 3000));

  struct Range {
    absl::string_view name;
    int64_t value, low, high;
  };
  for (const Range& range :
       {Range{"input_seq_len", p.input_seq_len, 4, kMaxSteps},
        Range{"vocab_size", p.vocab_size, 5, kMaxVocabulary},
        Range{"num_kv_pairs", p.num_kv_pairs, 1, kMaxSteps}, Range{"num_passes", p.num_passes, 1, kMaxSteps},
        Range{"train_examples", p.train_examples, 0, kMaxExamples},
        Range{"test_examples", p.test_examples, 1, kMaxExamples}}) {
    if (range.value < range.low || range.value > range.high) {
      return absl::InvalidArgumentError(absl::StrCat("mqar: ", range.name, " is ", range.value,
                                                     "; it must lie in [", range.low, ", ", range.high, "]"));
    }
  }
  if (!(std::abs(p.power_a) <= kMaxPower)) {
    return absl::InvalidArgumentError(
        absl::StrCat("mqar: power_a is ", p.power_a, "; it must lie in [-", kMaxPower, ", ", kMaxPower, "]"));
  }
  if (p.input_seq_len % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("mqar: input_seq_len is ", p.input_seq_len, "; it must be even"));
  }
  if (p.vocab_size <= p.input_seq_len) {
    return absl::InvalidArgumentError(absl::StrCat(
        "mqar: vocab_size is ", p.vocab_size, "; it must exceed input_seq_len, which is ", p.input_seq_len));
  }
  const int64_t needed = p.context_steps() + 2 * p.num_kv_pairs;
  if (needed > p.input_seq_len) {
    return absl::InvalidArgumentError(absl::StrCat("mqar: ", p.num_kv_pairs, " pairs shown ", p.num_passes,
                                                   " times and asked once need input_seq_len >= ", needed,
                                                   ", which is ", p.input_seq_len,
                                                   "; raise it or lower num_kv_pairs or num_passes"));
  }
  return p;
}

Settings ToSettings(const MqarParameters& p) {
  Settings settings;
  settings.Set("vocab_size", p.vocab_size);
  settings.Set("input_seq_len", p.input_seq_len);
  settings.Set("num_kv_pairs", p.num_kv_pairs);
  settings.Set("power_a", p.power_a);
  settings.Set("random_non_queries", p.random_non_queries);
  settings.Set("num_passes", p.num_passes);
  settings.Set("train_examples", p.train_examples);
  settings.Set("test_examples", p.test_examples);
  return settings;
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
  Mqar(const MqarParameters& p, uint64_t seed) : p_(p), settings_(ToSettings(p)), seed_(seed) {
    slot_rates_.reserve(p.slots());
    for (int64_t j = 0; j < p.slots(); ++j) slot_rates_.push_back(std::pow(j + 1.0, p.power_a - 1.0));
  }

  absl::string_view name() const override { return "mqar"; }
  const Settings& parameters() const override { return settings_; }
  int64_t vocab_size() const override { return p_.vocab_size; }
  int64_t example_count(Split split) const override {
    return split == Split::kTrain ? p_.train_examples : p_.test_examples;
  }

  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    EIGSVC_RETURN_IF_ERROR(CheckExampleRange(*this, split, first, count));
    Batch batch;
    batch.rows = count;
    batch.steps = p_.input_seq_len;
    batch.tokens.assign(count * batch.steps, 0);
    batch.targets.assign(count * batch.steps, kIgnoredTarget);
    batch.lengths.assign(count, batch.steps);
    for (int64_t row = 0; row < count; ++row) {
      FillExample(split, first + row, batch.tokens.data() + row * batch.steps,
                  batch.targets.data() + row * batch.steps);
    }
    return batch;
  }

  Score ComputeScore(absl::Span<const Prediction> predictions) const override {
    const std::vector<ExampleTally> tallies = TallyByExample(predictions);
    std::vector<double> accuracies;
    for (const ExampleTally& tally : tallies)
      accuracies.push_back(static_cast<double>(tally.correct) / tally.scored);
    const Interval interval =
        RatioInterval(accuracies, std::vector<double>(accuracies.size(), 1.0), "examples");
    Score score;
    score.metric = "accuracy";
    score.n = static_cast<int64_t>(accuracies.size());
    score.value =
        std::accumulate(accuracies.begin(), accuracies.end(), 0.0) / score.n;  // 0/0 = NaN when empty
    score.ci95_low = interval.low;
    score.ci95_high = interval.high;
    score.interval = interval.method;
    return score;
  }

 private:
  // The split is part of the key of the stream, so train and test share nothing.
  void FillExample(Split split, int64_t index, int64_t* tokens, int64_t* targets) const {
    Random random({kMqarStream, seed_, static_cast<uint64_t>(split), static_cast<uint64_t>(index)});
    const std::vector<int64_t> keys = DrawDistinct(random, p_.num_kv_pairs, 1, p_.vocab_size / 2);
    const std::vector<int64_t> values =
        DrawDistinct(random, p_.num_kv_pairs, p_.vocab_size / 2, p_.vocab_size);
    const std::vector<int64_t> slots = DrawSlots(random);
    const int64_t context = p_.context_steps();
    for (int64_t step = 0; step < context; ++step) {
      const int64_t pair = step / 2 % p_.num_kv_pairs;
      tokens[step] = step % 2 == 0 ? keys[pair] : values[pair];
    }
    if (p_.random_non_queries) {
      for (int64_t step = context; step < p_.input_seq_len; ++step) {
        tokens[step] = static_cast<int64_t>(random.Below(p_.vocab_size));
      }
    }
    for (int64_t pair = 0; pair < p_.num_kv_pairs; ++pair) {
      const int64_t step = context + 2 * slots[pair];
      tokens[step] = keys[pair];
      targets[step] = values[pair];
    }
  }

  // N of the S slots, drawn one after the other without replacement with p_j ∝ (j+1)^(a-1), renormalised
  // after each draw. Independent exponential clocks of rates p_j ring in exactly that law's order
  // (Plackett-Luce), which costs O(S log N) where redrawing costs O(S N).
  std::vector<int64_t> DrawSlots(Random& random) const {
    std::vector<std::pair<double, int64_t>> rings;
    rings.reserve(slot_rates_.size());
    for (double rate : slot_rates_) {
      rings.emplace_back(-std::log1p(-random.Unit()) / rate, static_cast<int64_t>(rings.size()));
    }
    std::partial_sort(rings.begin(), rings.begin() + p_.num_kv_pairs, rings.end());
    std::vector<int64_t> slots;
    for (int64_t i = 0; i < p_.num_kv_pairs; ++i) slots.push_back(rings[i].second);
    return slots;
  }

  const MqarParameters p_;
  const Settings settings_;
  const uint64_t seed_;
  std::vector<double> slot_rates_;
};

absl::StatusOr<std::shared_ptr<const Task>> MakeMqar(const Settings& parameters, uint64_t seed,
                                                     const std::string&) {
  EIGSVC_ASSIGN_OR_RETURN(const MqarParameters p, ReadMqarParameters(parameters));
  return std::make_shared<const Mqar>(p, seed);
}

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
       {"test_examples", "integer", "3000", "examples of the test split"}},
      /*needs_data=*/false,
      MakeMqar};
}

}  // namespace eigsvc
