#include "models/spectrum/spectrum.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "tests/testing/paths.h"

namespace eigsvc {
namespace {

using ::testing::ElementsAre;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Spectrum Of(const std::vector<double>& values, double noise_floor = 0) {
  Spectrum spectrum;
  spectrum.Add(values, noise_floor);
  return spectrum;
}

// Log-uniform sizes over many octaves, both signs, with atoms, edges and non-finite values among them.
std::vector<double> MixedValues(int count, uint64_t seed) {
  Random random({seed});
  const std::vector<double> special = {0.0,           -0.0,          -kInfinity,     kInfinity,    kNan,
                                       std::log(0.1), std::log(0.5), std::log(0.99), std::log(10), 1e-45,
                                       -1e-300,       1e300,         -5000.0};
  std::vector<double> values(count);
  for (double& value : values) {
    if (random.Below(20) == 0) {
      value = special[random.Below(special.size())];
    } else {
      value = std::exp2(-28 + 38 * random.Unit()) * (random.Below(2) == 0 ? -1 : 1);
    }
  }
  return values;
}

TEST(SpectrumTest, AQuantileThatFallsOnARankIsThatRanksValue) {
  std::vector<double> values;
  for (int i = 180; i >= 1; --i) values.push_back(-std::exp2(i / 8.0 - 12));  // a bin each, ascending
  Spectrum spectrum;
  spectrum.Add(absl::MakeConstSpan(values), 0);
  EXPECT_NEAR(spectrum.Quantile(0.05), values[8], 0.016 * std::abs(values[8]));  // 0.05 · 180 = 9, the ninth
  EXPECT_NEAR(spectrum.Quantile(0.95), values[170], 0.016 * std::abs(values[170]));
}

TEST(SpectrumTest, EmptyHasNoStatistics) {
  const Spectrum spectrum;
  EXPECT_EQ(spectrum.count(), 0u);
  EXPECT_TRUE(std::isnan(spectrum.Mean()));
  EXPECT_TRUE(std::isnan(spectrum.Std()));
  EXPECT_TRUE(std::isnan(spectrum.Min()));
  EXPECT_TRUE(std::isnan(spectrum.Max()));
  EXPECT_TRUE(std::isnan(spectrum.Quantile(0.5)));
}

TEST(SpectrumTest, PaperBinsAreHalfOpenBelowOneAndClosedAtOne) {
  EXPECT_THAT(Of({std::log(0.1)}).paper_bins(), ElementsAre(0, 1, 0, 0, 0, 0, 0));
  EXPECT_THAT(Of({std::nextafter(std::log(0.1), -9.0)}).paper_bins(), ElementsAre(1, 0, 0, 0, 0, 0, 0));
  EXPECT_THAT(Of({std::log(0.5)}).paper_bins(), ElementsAre(0, 0, 1, 0, 0, 0, 0));
  EXPECT_THAT(Of({std::nextafter(std::log(0.5), -9.0)}).paper_bins(), ElementsAre(0, 1, 0, 0, 0, 0, 0));
  EXPECT_THAT(Of({std::log(0.9)}).paper_bins(), ElementsAre(0, 0, 0, 1, 0, 0, 0));
  EXPECT_THAT(Of({std::nextafter(std::log(0.9), -9.0)}).paper_bins(), ElementsAre(0, 0, 1, 0, 0, 0, 0));
  EXPECT_THAT(Of({0.0, -0.0, -1e-300}).paper_bins(), ElementsAre(0, 0, 0, 3, 0, 0, 0));
  EXPECT_THAT(Of({1e-300, std::log(10.0)}).paper_bins(), ElementsAre(0, 0, 0, 0, 2, 0, 0));
  EXPECT_THAT(Of({std::nextafter(std::log(10.0), 9.0), std::log(100.0)}).paper_bins(),
              ElementsAre(0, 0, 0, 0, 0, 2, 0));
  EXPECT_THAT(Of({std::nextafter(std::log(100.0), 9.0), 1e300}).paper_bins(),
              ElementsAre(0, 0, 0, 0, 0, 0, 2));
  EXPECT_THAT(Of({-kInfinity}).paper_bins(), ElementsAre(1, 0, 0, 0, 0, 0, 0));
}

TEST(SpectrumTest, SharesNearEdgesIncludeTheEdges) {
  EXPECT_EQ(Of({std::log(0.1), -kInfinity, -50}).le_0_1(), 3u);
  EXPECT_EQ(Of({std::nextafter(std::log(0.1), 0.0)}).le_0_1(), 0u);
  EXPECT_EQ(Of({std::log(0.99), 0, std::log(1.01)}).near_1(), 3u);
  EXPECT_EQ(Of({std::nextafter(std::log(0.99), -1.0), std::nextafter(std::log(1.01), 1.0)}).near_1(), 0u);
  EXPECT_EQ(Of({1e-6, 0, -1}).above_1(), 0u);
  EXPECT_EQ(Of({std::nextafter(1e-6, 1.0), 3}).above_1(), 2u);
  EXPECT_EQ(Of({1e-3, 2e-3}, /*noise_floor=*/1e-3).above_1(), 1u);
}

// A direct count with one comparison an edge, in the words of the definitions.
TEST(SpectrumTest, CountsEqualADirectCount) {
  const std::vector<double> values = MixedValues(50'000, 7);
  const Spectrum spectrum = Of(values, 1e-4);
  std::array<uint64_t, 7> paper{};
  uint64_t nonfinite = 0, below = 0, near = 0, above = 0;
  for (const double x : values) {
    if (std::isnan(x) || x == kInfinity) {
      ++nonfinite;
      continue;
    }
    ++paper[x < std::log(0.1)      ? 0
            : x < std::log(0.5)    ? 1
            : x < std::log(0.9)    ? 2
            : x <= 0               ? 3
            : x <= std::log(10.0)  ? 4
            : x <= std::log(100.0) ? 5
                                   : 6];
    below += x <= std::log(0.1);
    near += x >= std::log(0.99) && x <= std::log(1.01);
    above += x > 1e-4;
  }
  EXPECT_EQ(spectrum.paper_bins(), paper);
  EXPECT_EQ(spectrum.le_0_1(), below);
  EXPECT_EQ(spectrum.near_1(), near);
  EXPECT_EQ(spectrum.above_1(), above);
  EXPECT_EQ(spectrum.nonfinite(), nonfinite);
  EXPECT_EQ(spectrum.count(), values.size() - nonfinite);
  const auto total = [](const std::vector<uint64_t>& bins) {
    return std::accumulate(bins.begin(), bins.end(), uint64_t{0});
  };
  EXPECT_EQ(total(spectrum.below_1()) + total(spectrum.beyond_1()) + spectrum.ones() + spectrum.zeros(),
            spectrum.count());
}

TEST(SpectrumTest, AnyPartitionInAnyOrderGivesTheSameBits) {
  const std::vector<double> values = MixedValues(60'000, 11);
  Spectrum whole = Of(values, 1e-5);
  for (uint64_t seed = 0; seed < 5; ++seed) {
    Random random({seed});
    std::vector<double> shuffled = values;
    for (size_t i = shuffled.size() - 1; i > 0; --i) std::swap(shuffled[i], shuffled[random.Below(i + 1)]);
    std::vector<Spectrum> shards(1 + random.Below(9));
    for (size_t begin = 0; begin < shuffled.size();) {
      const size_t length = std::min<size_t>(1 + random.Below(30'000), shuffled.size() - begin);
      shards[random.Below(shards.size())].Add(absl::MakeConstSpan(shuffled).subspan(begin, length), 1e-5);
      begin += length;
    }
    Spectrum left, right;  // folded from either end
    for (const Spectrum& shard : shards) left.Merge(shard);
    for (auto shard = shards.rbegin(); shard != shards.rend(); ++shard) right.Merge(*shard);
    EXPECT_EQ(left.parts(), whole.parts());
    EXPECT_EQ(right.parts(), whole.parts());
    Spectrum moved;
    moved.Add(absl::Span<const double>(), 2e-5);  // a noise floor alone
    for (Spectrum& shard : shards) moved.Merge(std::move(shard));
    Spectrum floor = whole;
    floor.Add(absl::Span<const double>(), 2e-5);
    EXPECT_EQ(moved.parts(), floor.parts());
  }
}

TEST(SpectrumTest, MergingComplexSpectraIsOrderFree) {
  Random random({3});
  std::vector<double> log_magnitude = MixedValues(4'000, 5), phase(4'000);
  for (double& p : phase) p = random.Below(4) == 0 ? 0 : 8 * (random.Unit() - 0.5);
  phase[17] = kNan;
  const auto part = [&](size_t begin, size_t length) {
    Spectrum spectrum;
    spectrum.AddComplex(absl::MakeConstSpan(log_magnitude).subspan(begin, length),
                        absl::MakeConstSpan(phase).subspan(begin, length), 0, 2);
    return spectrum;
  };
  const Spectrum whole = part(0, 4'000);
  Spectrum forward = part(0, 1'500), backward = part(1'500, 2'500);
  const Spectrum first = forward;
  forward.Merge(backward);
  backward.Merge(first);
  EXPECT_EQ(forward.parts(), whole.parts());
  EXPECT_EQ(backward.parts(), whole.parts());
  EXPECT_EQ(Spectrum(whole.parts()).parts(), whole.parts());
}

TEST(SpectrumTest, WeightCountsAValueThatOften) {
  const std::vector<double> values = MixedValues(300, 2);
  Spectrum weighted, repeated;
  weighted.Add(values, 0, 5);
  for (int i = 0; i < 5; ++i) repeated.Add(values, 0);
  EXPECT_EQ(weighted.parts(), repeated.parts());
}

TEST(SpectrumTest, FloatsCountAsTheDoublesOfTheSameValue) {
  std::vector<float> floats;
  for (const double value : MixedValues(3'000, 4)) floats.push_back(static_cast<float>(value));
  const std::vector<double> doubles(floats.begin(), floats.end());
  Spectrum from_floats, from_doubles;
  from_floats.Add(floats, 1e-5);
  from_doubles.Add(doubles, 1e-5);
  EXPECT_EQ(from_floats.parts(), from_doubles.parts());
}

TEST(SpectrumTest, QuantilesLieWithinTheStatedError) {
  std::vector<double> values = MixedValues(20'001, 9);
  std::erase_if(values, [](double x) {  // the bins' own range; beyond it only Min and Max are exact
    return std::isnan(x) || x == kInfinity || (x != 0 && std::isfinite(x) && std::abs(x) < 0x1p-30) ||
           (std::isfinite(x) && std::abs(x) > 4096);
  });
  const Spectrum spectrum = Of(values);
  std::sort(values.begin(), values.end());
  for (const double q : {0.0, 0.01, 0.05, 0.25, 0.5, 0.502, 0.75, 0.95, 0.99, 1.0}) {
    const size_t rank = std::max<size_t>(1, static_cast<size_t>(std::ceil(q * values.size())));
    const double exact = values[rank - 1];
    if (exact == -kInfinity) {
      EXPECT_EQ(spectrum.Quantile(q), -kInfinity);
    } else {
      EXPECT_NEAR(spectrum.Quantile(q), exact, 0.016 * std::abs(exact)) << "q = " << q;
    }
  }
}

TEST(SpectrumTest, MomentsAreThoseOfTheFiniteNonZeroEigenvalues) {
  const Spectrum spectrum = Of({-1.5, 0.25, 0, -kInfinity, kNan, 1e-9});
  const double mean = (-1.5 + 0.25 + 1e-9) / 4;
  const double square = (1.5 * 1.5 + 0.25 * 0.25 + 1e-18) / 4;
  EXPECT_NEAR(spectrum.Mean(), mean, 1e-18);
  EXPECT_NEAR(spectrum.Std(), std::sqrt(square - mean * mean), 1e-15);
  EXPECT_EQ(spectrum.Min(), -kInfinity);
  EXPECT_EQ(spectrum.Max(), 0.25);
  EXPECT_EQ(Of({-700}).Std(), 0);
  EXPECT_EQ(Of({-1e300}).Mean(), -65536);  // the stated limit of the moments
}

TEST(SpectrumTest, PhaseGridHoldsWhatIsNotPositiveReal) {
  const std::vector<double> log_magnitude = {-0.3, -0.3, 2.5, 0, -kInfinity, -0.3};
  const std::vector<double> phase = {std::numbers::pi, -std::numbers::pi, 0.01, 1, 1, 2 * std::numbers::pi};
  Spectrum spectrum;
  spectrum.AddComplex(log_magnitude, phase, 0);
  const int octaves = Spectrum::kMaxExponent - Spectrum::kMinExponent;
  ASSERT_EQ(spectrum.phase_grid().size(), 2u * octaves * Spectrum::kPhaseBins);
  const auto cell = [&](int side, int octave, int bin) {
    return spectrum.phase_grid()[(side * octaves + octave) * Spectrum::kPhaseBins + bin];
  };
  EXPECT_EQ(cell(0, -2 - Spectrum::kMinExponent, 0), 2u);  // 0.3 lies in [2^-2, 2^-1)
  EXPECT_EQ(cell(1, 1 - Spectrum::kMinExponent, 32), 1u);
  EXPECT_EQ(cell(0, 0, 42), 1u);  // |λ| = 1 at phase 1: floor((1/π + 1)·32)
  EXPECT_EQ(std::accumulate(spectrum.phase_grid().begin(), spectrum.phase_grid().end(), uint64_t{0}), 4u);
  EXPECT_TRUE(Of({-1, 2}).phase_grid().empty());
}

TEST(SpectrumTest, ClosedBinsCountAValueOnAnEdgeTwice) {
  const Spectrum on_edges =
      Of({std::log(0.1), std::log(0.5), std::log(0.9), 0, std::log(10.0), std::log(100.0), -kInfinity});
  EXPECT_THAT(on_edges.paper_bins(), ElementsAre(1, 1, 1, 2, 1, 1, 0));
  EXPECT_THAT(on_edges.closed_paper_bins(), ElementsAre(2, 2, 2, 2, 2, 2, 0));
  EXPECT_THAT(Of({-1, -0.01, 0.5, 7}).closed_paper_bins(), ElementsAre(0, 1, 0, 1, 1, 0, 1));
}

TEST(SpectrumTest, PhaseBinsAreOfTheSizeOfThePhase) {
  const double degree = std::numbers::pi / 180;
  const std::vector<double> phase = {0,           0.5 * degree, -0.5 * degree, degree,       -5 * degree,
                                     90 * degree, 120 * degree, -120 * degree, 180 * degree, -180 * degree};
  const std::vector<double> log_magnitude(phase.size(), -1.5);
  Spectrum spectrum;
  EXPECT_FALSE(spectrum.has_phase());
  spectrum.AddComplex(log_magnitude, phase, 0);
  EXPECT_TRUE(spectrum.has_phase());
  EXPECT_THAT(spectrum.phase_bins(), ElementsAre(4, 1, 0, 1, 4));
  // The released analysis: negative phases nowhere, but for -180°, which is 180°; values on an edge in both
  // bins.
  EXPECT_THAT(spectrum.signed_phase_bins(/*closed=*/false), ElementsAre(3, 0, 0, 1, 3));
  EXPECT_THAT(spectrum.signed_phase_bins(/*closed=*/true), ElementsAre(3, 1, 0, 1, 4));
  // Positive real eigenvalues have phase 0.
  spectrum.Add(std::vector<double>{-0.5, 0.25}, 0);
  EXPECT_THAT(spectrum.phase_bins(), ElementsAre(6, 1, 0, 1, 4));
}

TEST(SpectrumTest, AddingComplexOnesBySpansOrOneByOneIsTheSame) {
  std::vector<double> log_magnitude = MixedValues(3'000, 21), phase(3'000);
  Random random({22});
  for (double& p : phase) p = random.Below(50) == 0 ? kNan : 7 * (random.Unit() - 0.5);
  Spectrum whole, single;
  whole.AddComplex(log_magnitude, phase, 1e-5, 3);
  for (size_t i = 0; i < phase.size(); ++i) {
    single.AddComplex(absl::MakeConstSpan(&log_magnitude[i], 1), absl::MakeConstSpan(&phase[i], 1), 1e-5, 3);
  }
  EXPECT_EQ(whole.parts(), single.parts());
}

TEST(SpectrumTest, TheNearestEdgeIsOneOfThoseCountedAt) {
  EXPECT_EQ(Spectrum::DistanceToEdge(0), 0);
  EXPECT_EQ(Spectrum::DistanceToEdge(std::log(0.5)), 0);
  EXPECT_DOUBLE_EQ(Spectrum::DistanceToEdge(-100), 100 + std::log(0.1));
  EXPECT_DOUBLE_EQ(Spectrum::DistanceToEdge(0.007), std::log(1.01) - 0.007);
  EXPECT_DOUBLE_EQ(Spectrum::DistanceToEdge(-0.02), -0.02 - std::log(0.99) < 0 ? std::log(0.99) + 0.02 : 0);
  EXPECT_EQ(Spectrum::DistanceToEdge(-kInfinity), kInfinity);
}

TEST(SpectrumTest, BinEdgesHoldTheValuesCountedBetweenThem) {
  for (const double size : {0x1p-30, 1e-6, 0.3, 1.0, 1.03125, 88.0, 4095.0}) {
    const Spectrum spectrum = Of({-size});
    const auto found = std::find(spectrum.below_1().begin(), spectrum.below_1().end(), 1u);
    const int bin = static_cast<int>(found - spectrum.below_1().begin());
    EXPECT_LE(Spectrum::BinLow(bin), size);
    EXPECT_LT(size, Spectrum::BinLow(bin + 1));
  }
  EXPECT_EQ(Of({-1e-12}).below_1().front(), 1u);
  EXPECT_EQ(Of({1e200}).beyond_1().back(), 1u);
}

// golden/eigenvalues.json counts λ_i = i/(i+1) for T = 1024 in the released analysis's closed bins: 1/2 and
// 9/10 fall in two bins each.
TEST(SpectrumTest, UniformAttentionMatchesTheGoldenShares) {
  EIGSVC_REQUIRE_SHARED();
  const auto golden = nlohmann::json::parse(std::ifstream(testing::SharedPath("golden/eigenvalues.json")));
  std::vector<double> values;
  for (int i = 1; i < 1024; ++i) values.push_back(std::log(static_cast<double>(i) / (i + 1)));
  const std::array<uint64_t, 7> closed = Of(values).closed_paper_bins();
  const auto& shares = golden.at("uniform_attention_T1024_exact_lambda_in_closed_bins_percent");
  for (int b = 0; b < Spectrum::kPaperBins; ++b) {
    EXPECT_NEAR(100.0 * static_cast<double>(closed[b]) / 1023, shares[b].get<double>(), 1e-12) << "bin " << b;
  }
}

}  // namespace
}  // namespace eigsvc
