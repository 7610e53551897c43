#include "models/kernels/spectrum_counts.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>

#include "models/kernels/count_one.h"

namespace eigsvc {
namespace {

namespace slots = spectrum_slots;
namespace edges = spectrum_edges;

void AddLimbs(const kernels::Limbs& limbs, uint64_t* to) {
  for (int i = 0; i < 4; ++i) to[i] += limbs.limb[i];
}

// Sums of a unit, put into its slots before they are full.
class SlotMoments {
 public:
  SlotMoments(uint64_t weight, uint64_t* table) : weight_(weight), table_(table) {}
  void Add(double x) {
    moments_.Add(x);
    if (++terms_ == kernels::kMostTerms) Flush();
  }
  void Flush() {
    AddLimbs(moments_.sum.Times(weight_), table_ + slots::kSum);
    AddLimbs(moments_.squares.Times(weight_), table_ + slots::kSquares);
    moments_ = {};
    terms_ = 0;
  }

 private:
  const uint64_t weight_;
  uint64_t* const table_;
  kernels::Moments moments_;
  int terms_ = 0;
};

void CountOne(double x, double above_1_edge, uint64_t weight, uint64_t* table, SlotMoments& moments) {
  if (!(std::abs(x) > 0 && std::abs(x) < edges::kInfinity)) {
    const int slot = x == 0 ? slots::kOnes : x == -edges::kInfinity ? slots::kZeros : slots::kNonfinite;
    table[slot] += weight;
    if (x != 0) return;
  } else {
    table[(x < 0 ? slots::kBelow1 : slots::kBeyond1) + kernels::BinOf(x)] += weight;
    if (const int edge = kernels::EdgeOfSlot(kernels::BinOf(x) + (x < 0 ? 0 : Spectrum::kBins)); edge >= 0) {
      if (std::abs(x) == kernels::EdgeSize(edge)) table[slots::kOnEdge + edge] += weight;
      if (std::abs(x) > kernels::EdgeSize(edge)) table[slots::kBeyondEdge + edge] += weight;
    }
    if (x > above_1_edge) table[slots::kAbove1] += weight;
  }
  moments.Add(kernels::Limited(x));
  const uint64_t code = kernels::OrderedCode(x == 0 ? 0.0 : x);
  table[slots::kMin] = std::max(table[slots::kMin], ~code);
  table[slots::kMax] = std::max(table[slots::kMax], code);
}

// log|λ| k of a unit's step, whose number lies `at` there.
template <typename T>
T ValueOf(const CountProblem<T>& problem, const typename CountProblem<T>::Part& part, int64_t row,
          int64_t step, int64_t unit, int64_t k, int64_t at) {
  const T number = part.log_magnitude[at];
  if (part.factors != nullptr) return number * part.factors[unit * problem.per_unit + k];
  if (part.previous == nullptr) return number;
  const T before =
      step == 0 ? part.previous[row * problem.previous_row_stride + unit * problem.previous_unit_stride]
                : part.log_magnitude[at - problem.step_stride];
  return before - number;
}

// Whole bins lie in one class, but for those with an edge in them.
std::array<uint64_t, edges::kClasses> ClassCounts(const uint64_t* table) {
  std::array<uint64_t, edges::kClasses> classes{};
  for (const bool below : {true, false}) {
    int current = below ? 0 : edges::kFirstPositiveClass;
    const uint64_t* next = table + (below ? slots::kBelow1 : slots::kBeyond1);
    const uint64_t* const end = next + Spectrum::kBins;
    for (int edge = below ? 0 : kernels::kEdgesBelow1; edge < (below ? kernels::kEdgesBelow1 : edges::kEdges);
         ++edge) {
      const uint64_t* const bin = table + kernels::kEdgeSlots[edge];
      const uint64_t on = table[slots::kOnEdge + edge], beyond = table[slots::kBeyondEdge + edge];
      classes[current] += std::accumulate(next, bin + 1, uint64_t{0}) - on - beyond;
      classes[current + 1] += on;
      current += 2;
      classes[current] += beyond;
      next = bin + 1;
    }
    classes[current] += std::accumulate(next, end, uint64_t{0});
  }
  return classes;
}

double FromCode(uint64_t code) {
  return std::bit_cast<double>(code >> 63 ? code & ~(uint64_t{1} << 63) : ~code);
}

Spectrum::Fixed128 FromLimbs(const uint64_t* limbs) {
  unsigned __int128 total = 0;
  for (int i = 3; i >= 0; --i) total = (total << 32) + limbs[i];
  return {static_cast<int64_t>(static_cast<uint64_t>(total >> 64)), static_cast<uint64_t>(total)};
}

}  // namespace

template <typename T>
void CountPlainly(const CountProblem<T>& problem) {
  for (int64_t i = 0; i < problem.part_count * problem.units; ++i) {
    const auto& part = problem.parts[i / problem.units];
    const int64_t unit = i % problem.units;
    const double noise_floor = *part.noise_floor, above_1_edge = std::max(1e-6, noise_floor);
    uint64_t* const table = problem.slots + i * slots::kSlots;
    table[slots::kNoiseFloor] = std::max(table[slots::kNoiseFloor], kernels::OrderedCode(noise_floor));
    SlotMoments moments(problem.weight, table);
    for (int64_t row = 0; row < problem.rows; ++row) {
      int64_t end = problem.steps;
      if (problem.lengths != nullptr) end = std::min(end, problem.lengths[row] - problem.offset);
      for (int64_t step = problem.first; step < end; ++step) {
        for (int64_t k = 0; k < problem.per_unit; ++k) {
          const int64_t at = row * problem.row_stride + step * problem.step_stride +
                             unit * problem.unit_stride +
                             (part.factors == nullptr ? k * problem.value_stride : 0);
          const double x = ValueOf(problem, part, row, step, unit, k, at);
          if (part.phase != nullptr) {
            if (!std::isfinite(part.phase[at])) {
              table[slots::kNonfinite] += problem.weight;
              continue;
            }
            const int cell = std::isfinite(x) ? kernels::PhaseSlotOf(x, part.phase[at]) : -1;
            if (cell >= 0) {
              uint64_t* const cells = problem.phase_slots + i * slots::kPhaseSlots;
              cells[cell] += problem.weight;
              cells[kernels::PhaseClassSlotOf(part.phase[at])] += problem.weight;
            }
          }
          CountOne(x, above_1_edge, problem.weight, table, moments);
        }
      }
    }
    moments.Flush();
  }
}

template void CountPlainly(const CountProblem<float>&);
template void CountPlainly(const CountProblem<double>&);

Spectrum SpectrumOfSlots(const uint64_t* table, const uint64_t* phase_slots) {
  Spectrum::Parts parts;
  if (phase_slots != nullptr &&
      std::any_of(phase_slots, phase_slots + slots::kPhaseClass, [](uint64_t n) { return n != 0; })) {
    parts.phase_grid.assign(phase_slots, phase_slots + slots::kPhaseClass);
    for (int c = 0; c < 2 * edges::kPhaseClasses; ++c)
      parts.phase_classes[c / edges::kPhaseClasses][c % edges::kPhaseClasses] =
          phase_slots[slots::kPhaseClass + c];
  }
  parts.zeros = table[slots::kZeros];
  parts.ones = table[slots::kOnes];
  parts.nonfinite = table[slots::kNonfinite];
  parts.above_1 = table[slots::kAbove1];
  parts.paper_bins[0] = parts.le_0_1 = parts.zeros;
  parts.paper_bins[3] = parts.near_1 = parts.moment_count = parts.ones;
  const std::array<uint64_t, edges::kClasses> classes = ClassCounts(table);
  for (int c = 0; c < edges::kClasses; ++c) {
    const uint64_t amount = classes[c];
    parts.paper_bins[edges::kPaperBinOfClass[c]] += amount;
    if (edges::kNear1[c]) parts.near_1 += amount;
    if (edges::kAtMost0_1[c]) parts.le_0_1 += amount;
    parts.moment_count += amount;
  }
  for (size_t e = 0; e < parts.on_paper_edge.size(); ++e)
    parts.on_paper_edge[e] = classes[edges::kClassOnPaperEdge[e]];
  parts.sum = FromLimbs(table + slots::kSum);
  parts.sum_of_squares = FromLimbs(table + slots::kSquares);
  if (parts.moment_count != 0) {
    parts.min = FromCode(~table[slots::kMin]);
    parts.max = FromCode(table[slots::kMax]);
  }
  if (table[slots::kNoiseFloor] != 0) parts.noise_floor = FromCode(table[slots::kNoiseFloor]);
  if (parts.moment_count + parts.zeros + parts.nonfinite != 0) {
    parts.below_1.assign(table + slots::kBelow1, table + slots::kBelow1 + Spectrum::kBins);
    parts.beyond_1.assign(table + slots::kBeyond1, table + slots::kBeyond1 + Spectrum::kBins);
  }
  return Spectrum(std::move(parts));
}

}  // namespace eigsvc
