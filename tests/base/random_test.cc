#include "models/base/random.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace eigsvc {
namespace {

using ::testing::ElementsAre;

// An independent Philox 4x32-10, written from Salmon et al. (SC 2011), section 3.3: rounds that multiply two
// words to twice their width and swap the halves; the key is raised by the Weyl constants between rounds.
std::array<uint32_t, 4> ReferencePhilox(std::array<uint32_t, 4> x, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
    const uint64_t p0 = 0xD2511F53ull * x[0], p1 = 0xCD9E8D57ull * x[2];
    const auto high = [](uint64_t p) { return static_cast<uint32_t>(p >> 32); };
    x = {high(p1) ^ x[1] ^ k0, static_cast<uint32_t>(p1), high(p0) ^ x[3] ^ k1, static_cast<uint32_t>(p0)};
  }
  return x;
}

// Steele et al. (OOPSLA 2014): one step of SplitMix64 from state z.
uint64_t ReferenceSplitMix(uint64_t z) {
  z += 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

TEST(RandomTest, TheReferenceGivesThePublishedVectors) {
  // Random123's kat_vectors, "philox4x32 10".
  EXPECT_THAT(ReferencePhilox({0, 0, 0, 0}, 0, 0),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(ReferencePhilox({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(ReferencePhilox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
  // The first outputs of SplitMix64 from seed 1234567, as in the published test of its Java original.
  EXPECT_EQ(ReferenceSplitMix(1234567), 6457827717110365317ull);
  EXPECT_EQ(ReferenceSplitMix(1234567 + 0x9e3779b97f4a7c15ull), 3203168211198807973ull);
}

TEST(RandomTest, TheStreamIsPhiloxOfTheMixedKey) {
  const std::vector<uint64_t> key = {7, 1, 123456789012345};
  uint64_t a = ReferenceSplitMix(key.size()), b = ReferenceSplitMix(~uint64_t{key.size()});
  for (const uint64_t word : key) {
    a = ReferenceSplitMix(a ^ word);
    b = ReferenceSplitMix(b + word);
  }
  Random random({7, 1, 123456789012345});
  for (uint32_t i = 0; i < 100; ++i) {
    const auto block = ReferencePhilox({i, 0, static_cast<uint32_t>(b), static_cast<uint32_t>(b >> 32)},
                                       static_cast<uint32_t>(a), static_cast<uint32_t>(a >> 32));
    EXPECT_EQ(random.Bits(), block[0] | uint64_t{block[1]} << 32);
    EXPECT_EQ(random.Bits(), block[2] | uint64_t{block[3]} << 32);
  }
}

TEST(RandomTest, KeysThatDifferInContentOrderOrLengthGiveOtherStreams) {
  std::set<uint64_t> first;
  const std::initializer_list<std::initializer_list<uint64_t>> keys = {
      {}, {0}, {1}, {2}, {0, 0}, {0, 1}, {1, 0}, {1, 1}, {1, 0, 0}, {uint64_t{1} << 63}, {~uint64_t{0}}};
  for (const auto& key : keys) first.insert(Random(key).Bits());
  EXPECT_EQ(first.size(), keys.size());
}

TEST(RandomTest, BelowIsUnbiasedWhereModuloIsNot) {
  // Modulo 3 * 2^62 would give the lowest third twice as often as the others.
  constexpr uint64_t kThird = uint64_t{1} << 62;
  constexpr int kDraws = 60'000;
  Random random({11});
  std::array<int, 3> counts = {};
  for (int i = 0; i < kDraws; ++i) {
    const uint64_t value = random.Below(3 * kThird);
    ASSERT_LT(value, 3 * kThird);
    ++counts[value / kThird];
  }
  double chi_square = 0;
  for (const int count : counts) chi_square += std::pow(count - kDraws / 3.0, 2) / (kDraws / 3.0);
  EXPECT_LT(chi_square, 13.8);  // the 0.999 quantile at two degrees of freedom
}

TEST(RandomTest, BelowCoversSmallRangesEvenly) {
  Random random({12});
  EXPECT_EQ(random.Below(1), 0);
  std::array<int, 7> counts = {};
  for (int i = 0; i < 70'000; ++i) ++counts.at(random.Below(7));
  double chi_square = 0;
  for (const int count : counts) chi_square += std::pow(count - 10'000.0, 2) / 10'000.0;
  EXPECT_LT(chi_square, 22.5);  // the 0.999 quantile at six degrees of freedom
}

// The largest distance between an empirical and a true distribution function, times the root of the sample's
// size. Below 1.95 with probability 0.999 (Kolmogorov).
template <typename Cdf>
double Kolmogorov(std::vector<double> sample, Cdf cdf) {
  std::sort(sample.begin(), sample.end());
  const double n = static_cast<double>(sample.size());
  double distance = 0;
  for (size_t i = 0; i < sample.size(); ++i) {
    const double p = cdf(sample[i]);
    distance = std::max(
        {distance, std::abs(p - static_cast<double>(i) / n), std::abs(p - static_cast<double>(i + 1) / n)});
  }
  return distance * std::sqrt(n);
}

TEST(RandomTest, UnitIsUniformBelowOne) {
  Random random({13});
  std::vector<double> sample(100'000);
  for (double& value : sample) {
    value = random.Unit();
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
  }
  EXPECT_LT(Kolmogorov(sample, [](double x) { return x; }), 1.95);
}

TEST(RandomTest, NormalIsStandardNormalAndFinite) {
  Random random({14});
  std::vector<double> sample(100'000);
  for (double& value : sample) {
    value = random.Normal();
    ASSERT_TRUE(std::isfinite(value));
  }
  EXPECT_LT(Kolmogorov(sample, [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2)); }), 1.95);
}

}  // namespace
}  // namespace eigsvc
