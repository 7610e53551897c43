// Counting into slots gives the bits of Spectrum::Add and AddComplex, whatever the values and strides.
#include "models/kernels/spectrum_counts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "models/kernels/count_one.h"

namespace eigsvc {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Everything that a branch decides on, and a spread over all bins.
std::vector<double> Values(size_t count, uint64_t seed) {
  std::vector<double> values = {0.0,    -0.0,    -kInfinity, kInfinity, std::nan(""),
                                5e-324, -5e-324, 1e300,      -1e300};
  for (const double edge : {0.1, 0.5, 0.9, 0.99, 1.01, 10.0, 100.0}) {
    for (const double x :
         {std::log(edge), std::nextafter(std::log(edge), 9), std::nextafter(std::log(edge), -9)}) {
      values.push_back(x);
    }
  }
  for (const double x : {1e-6, std::nextafter(1e-6, 1), 2e-5, 0x1p16, -0x1p16, 0x1p17, 0x1p-30, 0x1p12}) {
    values.push_back(x);
  }
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> exponent(-34, 14), unit(0, 1);
  while (values.size() < count) {
    values.push_back((unit(generator) < 0.6 ? -1 : 1) * std::exp2(exponent(generator)));
  }
  std::shuffle(values.begin(), values.end(), generator);
  return values;
}

struct Shape {
  int64_t rows, steps, units, per_unit;
  bool steps_inside;  // [B,U,T,K] in memory instead of [B,T,U,K]
};

template <typename T>
void Check(const Shape& shape, bool with_phase, uint64_t weight, double noise_floor) {
  const int64_t total = shape.rows * shape.steps * shape.units * shape.per_unit;
  const int64_t beyond = shape.units * shape.per_unit;  // a step more, for the second part
  const std::vector<double> wide = Values(total + beyond, total + weight);
  const std::vector<T> values(wide.begin(), wide.begin() + total + beyond);
  std::vector<double> phase;
  std::mt19937_64 generator(7);
  std::uniform_real_distribution<double> angle(-8, 8);
  for (int64_t i = 0; with_phase && i < total + beyond; ++i) {
    const double special[] = {0.0, M_PI, -M_PI, M_PI / 2, std::nan(""), kInfinity, 2 * M_PI};
    phase.push_back(i % 5 == 0 ? special[i / 5 % 7] : angle(generator));
  }
  std::vector<int64_t> lengths;
  for (int64_t row = 0; row < shape.rows; ++row) lengths.push_back(3 + shape.steps - row % 3);

  CountProblem<T> problem;
  // A second part is the first one seen from its second step on, with a floor of its own.
  const double noise_floors[] = {noise_floor, 3 * noise_floor + 1e-5};
  problem.part_count = 2;
  problem.rows = shape.rows;
  problem.steps = shape.steps;
  problem.units = shape.units;
  problem.per_unit = shape.per_unit;
  problem.row_stride = shape.steps * shape.units * shape.per_unit;
  problem.step_stride = shape.steps_inside ? shape.per_unit : shape.units * shape.per_unit;
  problem.unit_stride = shape.steps_inside ? shape.steps * shape.per_unit : shape.per_unit;
  problem.value_stride = 1;
  problem.lengths = lengths.data();
  problem.offset = 3;
  problem.first = 1;
  problem.weight = weight;
  const auto shift = [&](int part) { return part * problem.step_stride; };
  for (const int part : {0, 1}) {
    problem.parts[part] = {values.data() + shift(part), with_phase ? phase.data() + shift(part) : nullptr,
                           &noise_floors[part]};
  }
  std::vector<uint64_t> slots(2 * shape.units * spectrum_slots::kSlots),
      cells(2 * shape.units * spectrum_slots::kPhaseSlots);
  problem.slots = slots.data();
  problem.phase_slots = cells.data();
  CountPlainly(problem);

  for (int64_t i = 0; i < 2 * shape.units; ++i) {
    const int part = static_cast<int>(i / shape.units);
    Spectrum expected;
    for (int64_t row = 0; row < shape.rows; ++row) {
      for (int64_t step = 1; step < shape.steps - row % 3; ++step) {
        for (int64_t k = 0; k < shape.per_unit; ++k) {
          const int64_t at = shift(part) + row * problem.row_stride + step * problem.step_stride +
                             i % shape.units * problem.unit_stride + k;
          if (with_phase) {
            const double x = values[at];
            expected.AddComplex({&x, 1}, {&phase[at], 1}, noise_floors[part], weight);
          } else {
            expected.Add(absl::MakeConstSpan(&values[at], 1), noise_floors[part], weight);
          }
        }
      }
    }
    const Spectrum found = SpectrumOfSlots(slots.data() + i * spectrum_slots::kSlots,
                                           cells.data() + i * spectrum_slots::kPhaseSlots);
    EXPECT_EQ(found.parts(), expected.parts()) << "part " << part << ", unit " << i % shape.units;
    EXPECT_GT(found.count(), 10u);
  }
}

TEST(SpectrumCountsTest, EqualsSpectrumBitForBit) {
  Check<double>({3, 40, 2, 5, false}, false, 1, 0);
  Check<double>({3, 40, 2, 5, true}, false, 6, 1e-5);
  Check<float>({2, 100, 3, 1, true}, false, 1, 2e-5);
  Check<double>({2, 60, 2, 4, false}, true, 1, 0);
  Check<double>({2, 60, 2, 4, true}, true, 12345678901, 1e-9);
}

// A step's number and factors give the slots of their products.
TEST(SpectrumCountsTest, FactorsCountAsTheirProducts) {
  constexpr int64_t kSteps = 50, kUnits = 3, kCount = 5;
  const std::vector<double> wide = Values(kSteps * kUnits, 11), more = Values(kUnits * kCount, 12);
  const std::vector<float> deltas(wide.begin(), wide.begin() + kSteps * kUnits),
      factors(more.begin(), more.begin() + kUnits * kCount);
  std::vector<float> products;
  for (int64_t i = 0; i < kSteps * kUnits; ++i) {
    for (int64_t k = 0; k < kCount; ++k) products.push_back(deltas[i] * factors[i % kUnits * kCount + k]);
  }
  const double noise_floor = 1e-5;
  std::vector<uint64_t> slots[2];
  for (const bool factored : {false, true}) {
    slots[factored].resize(kUnits * spectrum_slots::kSlots);
    CountProblem<float> problem;
    problem.rows = 1;
    problem.steps = kSteps;
    problem.units = kUnits;
    problem.per_unit = kCount;
    problem.unit_stride = factored ? 1 : kCount;
    problem.step_stride = kUnits * problem.unit_stride;
    problem.value_stride = 1;
    problem.weight = 2;
    problem.parts[0] = {factored ? deltas.data() : products.data(), nullptr, &noise_floor,
                        factored ? factors.data() : nullptr};
    problem.slots = slots[factored].data();
    CountPlainly(problem);
  }
  EXPECT_EQ(slots[true], slots[false]);
  EXPECT_GT(SpectrumOfSlots(slots[true].data(), nullptr).count(), 100u);
}

// Numbers of steps give the Spectrum of their differences in T: of two parts, the second seen from the
// first's second step on, with steps side by side or not, to the end of a row's length.
template <typename T>
void CheckDifferences(bool steps_inside, int64_t first) {
  constexpr int64_t kRows = 3, kSteps = 70, kUnits = 2, kFirstStep = 4;
  std::vector<T> numbers, previous;
  for (const double x : Values(kRows * (kSteps + 1) * kUnits, 21)) numbers.push_back(static_cast<T>(x));
  for (size_t i = 0; i + 3 < numbers.size(); i += 9) numbers[i + 1] = numbers[i + 2] = numbers[i + 3];
  for (const double x : Values(64, 22)) previous.push_back(static_cast<T>(x));
  const int64_t lengths[kRows] = {kFirstStep + kSteps + 9, kFirstStep + kSteps - 2, kFirstStep};
  const double noise_floors[] = {1e-5, 1e-7};
  std::vector<uint64_t> slots(2 * kUnits * spectrum_slots::kSlots);
  CountProblem<T> problem;
  problem.part_count = 2;
  problem.rows = kRows;
  problem.steps = kSteps;
  problem.units = kUnits;
  problem.per_unit = 1;
  problem.row_stride = (kSteps + 1) * kUnits;
  problem.step_stride = steps_inside ? 1 : kUnits;
  problem.unit_stride = steps_inside ? kSteps + 1 : 1;
  problem.previous_row_stride = 5;
  problem.previous_unit_stride = 17;
  problem.lengths = lengths;
  problem.offset = kFirstStep;
  problem.first = first;
  problem.weight = 3;
  problem.slots = slots.data();
  for (const int part : {0, 1}) {
    problem.parts[part] = {numbers.data() + part * problem.step_stride, nullptr, &noise_floors[part], nullptr,
                           previous.data() + part};
  }
  CountPlainly(problem);

  for (int64_t i = 0; i < 2 * kUnits; ++i) {
    const int64_t part = i / kUnits, unit = i % kUnits;
    Spectrum expected;
    for (int64_t row = 0; row < kRows; ++row) {
      std::vector<T> differences;
      T before = previous[part + row * problem.previous_row_stride + unit * problem.previous_unit_stride];
      for (int64_t step = 0; step < std::min(kSteps, lengths[row] - kFirstStep); ++step) {
        const T own =
            problem.parts[part].log_magnitude[row * problem.row_stride + step * problem.step_stride +
                                              unit * problem.unit_stride];
        if (step >= first) differences.push_back(before - own);
        before = own;
      }
      expected.Add(absl::MakeConstSpan(differences), noise_floors[part], problem.weight);
    }
    EXPECT_EQ(SpectrumOfSlots(slots.data() + i * spectrum_slots::kSlots, nullptr).parts(), expected.parts())
        << "part " << part << ", unit " << unit;
    EXPECT_GT(expected.count(), 100u);
    EXPECT_GT(expected.nonfinite(), 0u);
  }
}

TEST(SpectrumCountsTest, NumbersOfStepsCountAsTheirDifferences) {
  for (const bool steps_inside : {false, true}) {
    for (const int64_t first : {0, 1, 5}) {
      CheckDifferences<float>(steps_inside, first);
      CheckDifferences<double>(steps_inside, first);
    }
  }
}

TEST(SpectrumCountsTest, TheEdgesAreInTheirBins) {
  const double edges[] = {0.99, 0.9, 0.5, 0.1, 1.01, 10, 100};
  for (int edge = 0; edge < spectrum_edges::kEdges; ++edge) {
    const double x = std::log(edges[edge]);
    EXPECT_EQ(kernels::EdgeOfSlot(kernels::BinOf(x) + (x < 0 ? 0 : Spectrum::kBins)), edge) << edges[edge];
    EXPECT_NEAR(kernels::EdgeSize(edge), std::abs(x), 1e-15) << edges[edge];
  }
}

// What the CUDA form rests on: it asks for one edge a side and octave, and for none that is a float.
TEST(SpectrumCountsTest, NoTwoEdgesShareAnOctave) {
  for (int a = 0; a < spectrum_edges::kEdges; ++a) {
    const double size = kernels::EdgeSize(a);
    EXPECT_NE(static_cast<double>(static_cast<float>(size)), size);
    EXPECT_EQ(spectrum_edges::kEdgeLogs[a] < 0, a < kernels::kEdgesBelow1);
    for (int b = 0; b < a; ++b) {
      const bool one_side = (a < kernels::kEdgesBelow1) == (b < kernels::kEdgesBelow1);
      EXPECT_FALSE(one_side && std::ilogb(size) == std::ilogb(kernels::EdgeSize(b))) << a << ", " << b;
    }
  }
}

TEST(SpectrumCountsTest, SumsOfTheLargestTermsFit) {
  for (const double value : {0x1p16, -0x1p16, -1e30, std::nextafter(0x1p16, 0), -std::nextafter(0x1p8, 0)}) {
    const std::vector<double> values(3 * kernels::kMostTerms + 5, value);
    const double floor = 0;
    CountProblem<double> problem;
    problem.parts[0] = {values.data(), nullptr, &floor};
    problem.rows = problem.units = problem.per_unit = 1;
    problem.steps = static_cast<int64_t>(values.size());
    problem.step_stride = problem.value_stride = 1;
    problem.weight = 3;
    std::vector<uint64_t> slots(spectrum_slots::kSlots);
    problem.slots = slots.data();
    CountPlainly(problem);
    Spectrum expected;
    expected.Add(values, floor, problem.weight);
    EXPECT_EQ(SpectrumOfSlots(slots.data(), nullptr).parts(), expected.parts()) << value;
  }
}

TEST(SpectrumCountsTest, PhasesThatAreNotFiniteAloneAreASpectrum) {
  const double values[] = {-1, -2}, phases[] = {NAN, HUGE_VAL}, noise_floor = 1e-5;
  std::vector<uint64_t> slots(spectrum_slots::kSlots), cells(spectrum_slots::kPhaseSlots);
  CountProblem<double> problem;
  problem.parts[0] = {values, phases, &noise_floor};
  problem.rows = problem.units = problem.per_unit = problem.step_stride = problem.value_stride = 1;
  problem.steps = 2;
  problem.slots = slots.data();
  problem.phase_slots = cells.data();
  CountPlainly(problem);
  Spectrum expected;
  expected.AddComplex(values, phases, noise_floor);
  EXPECT_EQ(expected.nonfinite(), 2u);
  EXPECT_EQ(SpectrumOfSlots(slots.data(), cells.data()).parts(), expected.parts());
}

TEST(SpectrumCountsTest, AnEmptyTableIsAnEmptySpectrum) {
  const std::vector<uint64_t> slots(spectrum_slots::kSlots);
  EXPECT_EQ(SpectrumOfSlots(slots.data(), nullptr).parts(), Spectrum().parts());
}

}  // namespace
}  // namespace eigsvc
