#include "server/inspection/spectrum_summary.h"

#include <cmath>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/nine_values.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::NineValues;
using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(SpectrumSummaryTest, TellsSharesOfTheCount) {
  const v1::SpectrumSummary summary = SummaryProto(NineValues());
  EXPECT_EQ(summary.count(), 9);
  EXPECT_EQ(summary.nonfinite_count(), 1);
  EXPECT_EQ(summary.zero_count(), 1);
  EXPECT_DOUBLE_EQ(summary.le_0_1(), 2.0 / 9);
  EXPECT_DOUBLE_EQ(summary.near_1(), 2.0 / 9);
  EXPECT_DOUBLE_EQ(summary.above_1(), 3.0 / 9);
  EXPECT_THAT(summary.paper_bins(),
              ElementsAre(DoubleEq(2.0 / 9), DoubleEq(1.0 / 9), DoubleEq(1.0 / 9), DoubleEq(2.0 / 9),
                          DoubleEq(1.0 / 9), DoubleEq(1.0 / 9), DoubleEq(1.0 / 9)));
  EXPECT_THAT(summary.quantiles(), SizeIs(7));
  EXPECT_EQ(summary.quantiles(0), -std::numeric_limits<double>::infinity());
  // The median of nine is the fifth, within a bin's half-width.
  EXPECT_NEAR(summary.quantiles(3), std::log(0.995), 0.016 * std::abs(std::log(0.995)));
  EXPECT_EQ(summary.min(), -std::numeric_limits<double>::infinity());
  EXPECT_DOUBLE_EQ(summary.max(), std::log(1000.0));
  EXPECT_DOUBLE_EQ(summary.noise_floor(), 1e-7);
}

TEST(SpectrumSummaryTest, AnEmptySpectrumHasNoShares) {
  const v1::SpectrumSummary summary = SummaryProto(Spectrum());
  EXPECT_EQ(summary.count(), 0);
  EXPECT_THAT(summary.quantiles(), IsEmpty());
  EXPECT_THAT(summary.paper_bins(), IsEmpty());
  EXPECT_EQ(summary.le_0_1(), 0);
  EXPECT_TRUE(std::isnan(summary.mean()));
  EXPECT_TRUE(std::isnan(summary.std()));
}

}  // namespace
}  // namespace eigsvc
