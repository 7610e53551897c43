#include "server/worker/convert.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/zoo/registry.h"
#include "server/inspection/spectrum_summary.h"
#include "tests/testing/nine_values.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::NineValues;
using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(ConvertTest, BinsAreTheNonEmptyOnesAndSumToTheCount) {
  const Spectrum spectrum = NineValues();
  const v1::SpectrumBins bins = BinsProto(spectrum);
  ASSERT_EQ(bins.below_1_index_size(), bins.below_1_count_size());
  ASSERT_EQ(bins.beyond_1_index_size(), bins.beyond_1_count_size());
  EXPECT_EQ(bins.zero_count(), 1);
  EXPECT_EQ(bins.one_count(), 1);
  EXPECT_EQ(std::accumulate(bins.below_1_count().begin(), bins.below_1_count().end(), uint64_t{0}), 4u);
  EXPECT_EQ(std::accumulate(bins.beyond_1_count().begin(), bins.beyond_1_count().end(), uint64_t{0}), 3u);
  for (int i = 0; i < bins.below_1_index_size(); ++i) {
    EXPECT_EQ(spectrum.below_1()[bins.below_1_index(i)], bins.below_1_count(i));
    EXPECT_GT(bins.below_1_count(i), 0u);
    if (i > 0) {
      EXPECT_LT(bins.below_1_index(i - 1), bins.below_1_index(i));
    }
  }
  EXPECT_THAT(bins.phase_index(), IsEmpty());
}

TEST(ConvertTest, PhasesCarryTheirGrid) {
  Spectrum spectrum;
  const std::vector<double> log_magnitude = {-0.5, -0.5}, phase = {M_PI / 2, -M_PI / 2};
  spectrum.AddComplex(log_magnitude, phase, 0);
  const v1::SpectrumBins bins = BinsProto(spectrum);
  ASSERT_EQ(bins.phase_index_size(), 2);
  EXPECT_EQ(std::accumulate(bins.phase_count().begin(), bins.phase_count().end(), uint64_t{0}), 2u);
}

TEST(ConvertTest, DeparturesChooseTheBins) {
  const v1::SpectrumSummary half_open = SummaryProto(NineValues());
  Departures departures;
  departures.closed_bins = true;
  const v1::SpectrumSummary closed = SummaryProto(NineValues(), departures);
  for (int b = 0; b < 7; ++b)  // 1 is in [.9,1] and in [1,10]
    EXPECT_DOUBLE_EQ(closed.paper_bins(b) - half_open.paper_bins(b), b == 4 ? 1.0 / 9 : 0);
  EXPECT_THAT(closed.phase_bins(), IsEmpty());

  Spectrum spectrum;
  const std::vector<double> log_magnitude = {-0.5, -0.5, -1, -2}, phase = {M_PI / 3, -M_PI / 3, 0, M_PI};
  spectrum.AddComplex(log_magnitude, phase, 0);
  EXPECT_THAT(SummaryProto(spectrum).phase_bins(), ElementsAre(0.25, 0, 0, 0.5, 0.25));
  departures.signed_phase = true;
  EXPECT_THAT(SummaryProto(spectrum, departures).phase_bins(), ElementsAre(0.25, 0, 0, 0.25, 0.25));
}

TEST(ConvertTest, ConditionNumbersComeWithTheSite) {
  SiteSpectrum site{{0, "s4", UnitKind::kChannel, 0}, {1, 2}, true, NineValues()};
  EXPECT_FALSE(SiteProto(site).has_conditioning());
  site.conditioning = Conditioning{3.5e17, 4, 256};
  site.conjugate_pairs = true;
  const v1::SiteSpectrum proto = SiteProto(site);
  EXPECT_EQ(proto.conditioning().max_condition(), 3.5e17);
  EXPECT_EQ(proto.conditioning().unresolved_count(), 4);
  EXPECT_EQ(proto.conditioning().bits(), 256);
  EXPECT_TRUE(proto.conjugate_pairs());
  EXPECT_THAT(proto.multiplicities(), ElementsAre(1, 2));
}

TEST(ConvertTest, ASiteKeepsItsPlaceAndMultiplicity) {
  const v1::SiteSpectrum site = SiteProto({{3, "mamba2", UnitKind::kHead, 5}, {128}, true, NineValues()});
  EXPECT_EQ(site.site().layer(), 3);
  EXPECT_EQ(site.site().mixer(), "mamba2");
  EXPECT_EQ(site.site().unit_kind(), v1::UNIT_KIND_HEAD);
  EXPECT_EQ(site.site().unit(), 5);
  EXPECT_THAT(site.multiplicities(), ElementsAre(128));
  EXPECT_TRUE(site.constant());
  EXPECT_EQ(site.summary().count(), 9);
  EXPECT_EQ(site.bins().zero_count(), 1);
  EXPECT_EQ(SiteProto({{0, "s4", UnitKind::kChannel, 0}, {1}, false, {}}).site().unit_kind(),
            v1::UNIT_KIND_CHANNEL);
  EXPECT_EQ(SiteProto({{0, "lru", UnitKind::kLayer, 0}, {1}, false, {}}).site().unit_kind(),
            v1::UNIT_KIND_LAYER);
}

TEST(ConvertTest, ScoresKeepEveryNumber) {
  const v1::Score score = ScoreProto({"perplexity", 12.5, 99, 11.0, 14.0, "bootstrap", {{"accuracy", 0.25}}});
  EXPECT_EQ(score.metric(), "perplexity");
  EXPECT_EQ(score.value(), 12.5);
  EXPECT_EQ(score.n(), 99);
  EXPECT_EQ(score.ci95_low(), 11.0);
  EXPECT_EQ(score.ci95_high(), 14.0);
  EXPECT_EQ(score.interval(), "bootstrap");
  EXPECT_EQ(score.also().at("accuracy"), 0.25);
}

TEST(ConvertTest, TimesKeepTheirNanoseconds) {
  const auto duration = DurationProto(absl::Seconds(3) + absl::Nanoseconds(250));
  EXPECT_EQ(duration.seconds(), 3);
  EXPECT_EQ(duration.nanos(), 250);
  const auto time = TimestampProto(absl::FromUnixNanos(1'700'000'000'000'000'001));
  EXPECT_EQ(time.seconds(), 1'700'000'000);
  EXPECT_EQ(time.nanos(), 1);
}

TEST(ConvertTest, TheCatalogHasEveryFamilyAndTaskByName) {
  const worker::v1::GetCatalogResponse catalog = CatalogProto();
  for (const v1::ModelFamily& family : catalog.models()) {
    EXPECT_FALSE(family.reference().empty()) << family.name();
    EXPECT_EQ(family.conformance_size(), family.layouts_size()) << family.name();
  }
  ASSERT_EQ(catalog.models_size(), static_cast<int>(Families().size()));
  ASSERT_EQ(catalog.tasks_size(), static_cast<int>(Tasks().size()));
  for (int i = 1; i < catalog.models_size(); ++i)
    EXPECT_LT(catalog.models(i - 1).name(), catalog.models(i).name());
  for (int i = 1; i < catalog.tasks_size(); ++i)
    EXPECT_LT(catalog.tasks(i - 1).name(), catalog.tasks(i).name());
  for (const v1::ModelFamily& family : catalog.models()) {
    EXPECT_FALSE(family.summary().empty()) << family.name();
    EXPECT_FALSE(family.transition().empty()) << family.name();
    EXPECT_GT(family.layouts_size(), 0) << family.name();
  }
  for (const v1::TaskInfo& task : catalog.tasks()) {
    for (const v1::TaskParameterInfo& parameter : task.parameters()) {
      EXPECT_FALSE(parameter.meaning().empty()) << task.name() << "." << parameter.name();
      // Defaults are JSON, so that a client can put them into a request, or words in the meaning.
      if (parameter.default_json().empty()) {
        EXPECT_THAT(parameter.meaning(), ::testing::HasSubstr("by default"))
            << task.name() << "." << parameter.name();
      } else {
        EXPECT_TRUE(Settings::Parse("{\"x\":" + parameter.default_json() + "}", "test").ok())
            << task.name() << "." << parameter.name() << ": " << parameter.default_json();
      }
    }
  }
}

}  // namespace
}  // namespace eigsvc
