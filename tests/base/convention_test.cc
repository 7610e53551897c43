#include "models/base/convention.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// Of a softmax attention model of the paper.
ConventionSupport Attention() {
  ConventionSupport support;
  support.gauges = {Gauge::kDsf, Gauge::kRaw};
  support.departures.layer_output = support.departures.unscaled_scores = true;
  support.departures.closed_bins = true;
  return support;
}

TEST(ConventionTest, TheDefaultIsExactAndTheModelsOwn) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Convention asked, ParseConvention("", {}, "", ""));
  EXPECT_EQ(asked, Convention());
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Convention resolved, ResolveConvention(asked, Attention(), "paper"));
  EXPECT_EQ(DefinitionName(resolved.departures), "EXACT");
  EXPECT_THAT(DepartureNames(resolved.departures), IsEmpty());
  EXPECT_EQ(GaugeName(resolved.gauge), "dsf");
  EXPECT_EQ(RotationName(resolved.rotation), "io");
}

TEST(ConventionTest, PaperCompatStandsForAllThatConcernsTheModel) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Convention asked, ParseConvention("PAPER_COMPAT", {}, "", "io"));
  EXPECT_THAT(DepartureNames(asked.departures),
              ElementsAre("E1", "E2", "E3", "E4", "E5", "E6", "E7", "E8", "E9", "E10"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Convention resolved, ResolveConvention(asked, Attention(), "paper"));
  EXPECT_EQ(DefinitionName(resolved.departures), "PAPER_COMPAT");
  EXPECT_THAT(DepartureNames(resolved.departures), ElementsAre("E1", "E3", "E9"));
  EXPECT_EQ(resolved.gauge, Gauge::kDsf);
}

TEST(ConventionTest, ADepartureThatIsNamedIsSetAlone) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Convention asked, ParseConvention("PAPER_COMPAT", {"E9", "E3"}, "", ""));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Convention resolved, ResolveConvention(asked, Attention(), "paper"));
  EXPECT_TRUE(resolved.departures.unscaled_scores);
  EXPECT_TRUE(resolved.departures.closed_bins);
  EXPECT_FALSE(resolved.departures.layer_output);
}

TEST(ConventionTest, WhatIsUnknownIsNamed) {
  const auto parsed = [](auto... arguments) { return ParseConvention(arguments...); };
  const std::vector<std::string> none;
  EXPECT_THAT(parsed("exact", none, "", ""),
              StatusIs(kInvalid, HasSubstr(R"(definition "exact" is neither)")));
  EXPECT_THAT(parsed("PAPER_COMPAT", std::vector<std::string>{"E11"}, "", ""),
              StatusIs(kInvalid, HasSubstr(R"(departure "E11" of PAPER_COMPAT is none of E1 to E10)")));
  EXPECT_THAT(parsed("", std::vector<std::string>{"E1"}, "", ""),
              StatusIs(kInvalid, HasSubstr("departures E1 belong to definition PAPER_COMPAT")));
  EXPECT_THAT(parsed("", none, "dfs", ""),
              StatusIs(kInvalid, HasSubstr(R"(gauge "dfs" is none of dsf, raw)")));
  EXPECT_THAT(parsed("", none, "", "oi"),
              StatusIs(kInvalid, HasSubstr(R"(rotation "oi" is none of io, state)")));
}

TEST(ConventionTest, WhatAModelCannotReportIsRefusedWithWhatItCan) {
  const auto resolved = [](const std::vector<std::string>& departures, const char* gauge,
                           const char* rotation,
                           const ConventionSupport& support) -> absl::StatusOr<Convention> {
    const auto asked = ParseConvention(departures.empty() ? "" : "PAPER_COMPAT", departures, gauge, rotation);
    if (!asked.ok()) return asked;
    return ResolveConvention(*asked, support, "mamba2");
  };
  EXPECT_THAT(resolved({"E1"}, "", "", ConventionSupport()),
              StatusIs(kInvalid,
                       HasSubstr("(softmax-attention, linear-attention, norm-attention, mamba2, lru, s4 and "
                                 "s5, in layout paper); this mamba2 has EXACT only")));
  EXPECT_THAT(
      resolved({"E1"}, "raw", "", Attention()),
      StatusIs(kInvalid, HasSubstr("gauge \"raw\" means nothing for definition PAPER_COMPAT of mamba2")));
  EXPECT_THAT(
      resolved({"E1", "E8"}, "", "", Attention()),
      StatusIs(kInvalid,
               HasSubstr("departure E8 of PAPER_COMPAT means nothing for mamba2; it has E1, E3, E9")));
  EXPECT_THAT(resolved({}, "dsf", "", ConventionSupport()),
              StatusIs(kInvalid, HasSubstr(R"(gauge "dsf" means nothing for mamba2; it has raw)")));
  EXPECT_THAT(resolved({}, "", "state", ConventionSupport()),
              StatusIs(kInvalid, HasSubstr(R"(rotation "state" means nothing for mamba2; it has io)")));
}

}  // namespace
}  // namespace eigsvc
