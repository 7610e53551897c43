// What the client shows: golden files for each format, and the numbers, tables and axes behind them.
// EIGSVC_UPDATE_GOLDEN=1 rewrites the golden files; look at the difference before it is committed.
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <numeric>

#include "client/cli/analysis_json.h"
#include "client/cli/csv.h"
#include "client/cli/layer_spectrum.h"
#include "client/cli/magnitude_axis.h"
#include "client/cli/number_text.h"
#include "client/cli/plot.h"
#include "client/cli/report.h"
#include "client/cli/table.h"
#include "client/cli/terminal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/cli_harness.h"
#include "tests/client/sample_analysis.h"
#include "tests/testing/paths.h"

namespace eigsvc::cli {
namespace {

using ::eigsvc::cli::testing::ReadFile;
using ::eigsvc::cli::testing::SampleAnalysis;
using ::eigsvc::cli::testing::TemporaryDirectory;
using ::eigsvc::testing::SourcePath;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::Not;

constexpr Style kPlain{.color = false, .utf8 = true, .columns = 100};
constexpr Style kAscii{.color = false, .utf8 = false, .columns = 100};
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Report SampleReport(bool with_twin) {
  Report report;
  report.analysis = SampleAnalysis();
  report.source = "mamba2.pt";
  if (with_twin) report.twin = SampleAnalysis(/*slow=*/false);
  return report;
}

void ExpectGolden(const std::string& name, const std::string& text) {
  const std::string path = SourcePath("tests/client/golden/" + name);
  if (std::getenv("EIGSVC_UPDATE_GOLDEN") != nullptr) std::ofstream(path, std::ios::binary) << text;
  EXPECT_EQ(text, ReadFile(path)) << "differs from " << path;
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines = {""};
  for (const char c : text) {
    if (c == '\n') {
      lines.emplace_back();
    } else {
      lines.back().push_back(c);
    }
  }
  return lines;
}

TEST(ReportTest, TableMatchesGolden) { ExpectGolden("table.txt", ReportTable(SampleReport(false), kPlain)); }
TEST(ReportTest, TableWithTwinMatchesGolden) {
  ExpectGolden("table_twin.txt", ReportTable(SampleReport(true), kPlain));
}
// A twin is shown in the very columns a single run is; narrow terminals have fewer, of both.
TEST(ReportTest, QuantilesGiveWayOnNarrowTerminals) {
  const auto quantiles = [](bool with_twin, int columns) {
    const std::string text = ReportTable(SampleReport(with_twin), {.utf8 = true, .columns = columns});
    const std::string table = text.substr(text.find("Eigenvalues by site"),
                                          text.find("half-life of") - text.find("Eigenvalues by site"));
    for (const std::string& line : Lines(table)) EXPECT_LE(DisplayWidth(line), columns) << line;
    std::string shown;
    for (const char* name : {"5 %", "25 %", "50 %", "75 %", "95 %"}) {
      if (table.find(std::string(" ") + name) != std::string::npos) shown += std::string(name) + ",";
    }
    return shown;
  };
  for (const bool with_twin : {false, true}) {
    EXPECT_EQ(quantiles(with_twin, 100), "5 %,25 %,50 %,75 %,95 %,");
    EXPECT_EQ(quantiles(with_twin, 80), "5 %,50 %,95 %,");
    EXPECT_EQ(quantiles(with_twin, 60), "50 %,");
  }
}

TEST(ReportTest, AsciiTableMatchesGolden) {
  ExpectGolden("table_ascii.txt", ReportTable(SampleReport(true), kAscii));
}
TEST(ReportTest, JsonMatchesGolden) { ExpectGolden("analysis.json", ReportJson(SampleReport(true))); }
TEST(ReportTest, CsvMatchesGolden) { ExpectGolden("analysis.csv", ReportCsv(SampleReport(true))); }

TEST(ReportTest, TablesFitInAHundredColumns) {
  for (const bool twin : {false, true}) {
    for (const std::string& line : Lines(ReportTable(SampleReport(twin), kPlain)))
      EXPECT_LE(DisplayWidth(line), 100) << line;
  }
}

TEST(ReportTest, AsciiTableHasAsciiOnly) {
  for (const char c : ReportTable(SampleReport(true), kAscii))
    ASSERT_TRUE(c == '\n' || (c >= 0x20 && c < 0x7F)) << int{c};
}

TEST(ReportTest, ColourChangesNothingButEscapes) {
  Style coloured = kPlain;
  coloured.color = true;
  std::string stripped;
  bool escape = false;
  const std::string text = ReportTable(SampleReport(true), coloured);
  for (const char c : text) {
    if (c == '\x1b') escape = true;
    if (!escape) stripped.push_back(c);
    if (c == 'm') escape = false;
  }
  EXPECT_THAT(text, HasSubstr("\x1b["));
  EXPECT_EQ(stripped, ReportTable(SampleReport(true), kPlain));
}

TEST(ReportTest, ManySitesBecomeLayersUnlessAllAreAskedFor) {
  Report report = SampleReport(false);
  const v1::SiteSpectrum site = report.analysis.result().sites(0);
  for (int unit = 2; unit < 100; ++unit) {
    v1::SiteSpectrum* added = report.analysis.mutable_result()->add_sites();
    *added = site;
    added->mutable_site()->set_unit(unit);
  }
  EXPECT_THAT(ReportTable(report, kPlain), HasSubstr("100 heads"));
  EXPECT_THAT(ReportTable(report, kPlain), Not(HasSubstr("head 57")));
  report.all_sites = true;
  EXPECT_THAT(ReportTable(report, kPlain), HasSubstr("head 57"));
}

TEST(ReportTest, WhatLapackHadToRedoIsSaid) {
  Report report = SampleReport(false);
  EXPECT_THAT(ReportTable(report, kPlain), Not(HasSubstr("LAPACK")));
  report.analysis.mutable_result()->set_redone_matrices(1234);
  EXPECT_THAT(ReportTable(report, kPlain),
              HasSubstr("1,234 matrices did not converge in the batched solver, redone on the host"));
  EXPECT_EQ(Json::parse(ReportJson(report))["redone_matrices"], 1234);
}

TEST(ReportTest, HalvedBatchesAreSaid) {
  Report report = SampleReport(false);
  EXPECT_THAT(ReportTable(report, kPlain), Not(HasSubstr("halved")));
  EXPECT_TRUE(Json::parse(ReportJson(report))["halved_batch_size"].is_null());
  report.analysis.mutable_result()->set_batch_halvings(3);
  report.analysis.mutable_result()->set_halved_batch_size(8);
  EXPECT_THAT(ReportTable(report, kPlain),
              HasSubstr("memory ran out 3 times; batches were halved, down to 8 examples"));
  const Json json = Json::parse(ReportJson(report));
  EXPECT_EQ(json["batch_halvings"], 3);
  EXPECT_EQ(json["halved_batch_size"], 8);
}

TEST(ReportTest, NothingCountedIsShownAsNothing) {
  Report report = SampleReport(false);
  report.analysis.mutable_result()->clear_sites();
  *report.analysis.mutable_result()->add_sites() = testing::ToProto(0, "mamba2", 0, Spectrum());
  report.analysis.mutable_result()->mutable_score()->set_value(std::nan(""));
  EXPECT_THAT(ReportTable(report, kPlain), HasSubstr("accuracy -"));
  const Json json = Json::parse(ReportJson(report));
  EXPECT_TRUE(json["score"]["value"].is_null());
  EXPECT_TRUE(json["sites"][0]["log_magnitude"]["mean"].is_null());
  EXPECT_TRUE(json["sites"][0]["log_magnitude"]["quantiles"]["0.5"].is_null());
  EXPECT_EQ(json["sites"][0]["paper_bins"].size(), 7u);
}

TEST(ReportTest, HostileNamesReachNoTerminal) {
  Report report = SampleReport(false);
  report.source = "evil\x1b[2J.pt";
  report.analysis.mutable_model()->set_layout(
      "a\x07"
      "b");
  const std::string table = ReportTable(report, kPlain);
  EXPECT_THAT(table, Not(HasSubstr("\x1b")));
  EXPECT_THAT(table, Not(HasSubstr("\x07")));
  report.source = "not utf8 \xff";
  EXPECT_FALSE(Json::parse(ReportJson(report), nullptr, false).is_discarded());
}

TEST(ReportJsonTest, ZeroIsNullAndDoublesRoundTrip) {
  Report report = SampleReport(false);
  v1::SpectrumSummary& summary = *report.analysis.mutable_result()->mutable_sites(0)->mutable_summary();
  summary.set_quantiles(0, -kInfinity);
  summary.set_mean(-0.1234567890123456789);
  summary.set_std(std::nextafter(1.0, 2.0));
  const Json site = Json::parse(ReportJson(report))["sites"][0];
  EXPECT_TRUE(site["log_magnitude"]["quantiles"]["0.01"].is_null());
  EXPECT_EQ(site["log_magnitude"]["mean"].get<double>(), -0.1234567890123456789);
  EXPECT_EQ(site["log_magnitude"]["std"].get<double>(), std::nextafter(1.0, 2.0));
}

TEST(ReportJsonTest, SeedsOf64BitsStayExact) {
  Report report = SampleReport(false);
  report.analysis.mutable_result()->mutable_task()->set_seed(std::numeric_limits<uint64_t>::max());
  EXPECT_THAT(ReportJson(report), HasSubstr("18446744073709551615"));
}

// Of S4 under the released analysis's conventions: whatever a plain result has not.
Report UnusualReport() {
  Report report = SampleReport(false);
  v1::AnalysisResult& result = *report.analysis.mutable_result();
  result.set_definition("PAPER_COMPAT");
  for (const char* name : {"E8", "E9", "E10"}) result.add_departures(name);
  result.set_gauge("dsf");
  result.set_rotation("state");
  result.mutable_window()->set_length(16);
  result.mutable_window()->set_stride(4);
  report.analysis.mutable_model()->add_departures("E8");
  v1::SiteSpectrum& site = *result.mutable_sites(0);
  site.clear_multiplicities();
  for (const int64_t multiplicity : {63, 1, 0}) site.add_multiplicities(multiplicity);
  site.mutable_conditioning()->set_max_condition(1.5e14);
  site.mutable_conditioning()->set_unresolved_count(96);
  site.mutable_conditioning()->set_bits(53);
  for (const double share : {0.5, 0.25, 0.125, 0.0, 0.125}) site.mutable_summary()->add_phase_bins(share);
  return report;
}

TEST(ReportJsonTest, UnusualConventionsAndConditionNumbersAreTold) {
  const Json json = Json::parse(ReportJson(UnusualReport()));
  EXPECT_EQ(json["definition"], "PAPER_COMPAT");
  EXPECT_EQ(json["departures"], (std::vector<std::string>{"E8", "E9", "E10"}));
  EXPECT_EQ(json["gauge"], "dsf");
  EXPECT_EQ(json["rotation"], "state");
  EXPECT_EQ(json["window"].dump(), R"({"length":16,"stride":4})");
  EXPECT_EQ(json["model"]["departures"], std::vector<std::string>{"E8"});
  const Json& site = json["sites"][0];
  EXPECT_EQ(site["multiplicity"].dump(), "[63,1,null]");
  EXPECT_EQ(site["conditioning"]["max_condition"], 1.5e14);
  EXPECT_EQ(site["conditioning"]["unresolved"], 0.25);  // of 384
  EXPECT_EQ(site["conditioning"]["bits"], 53);
  EXPECT_EQ(site["phase_bins"], (std::vector<double>{0.5, 0.25, 0.125, 0.0, 0.125}));
  EXPECT_FALSE(json["sites"][1].contains("conditioning"));
  EXPECT_FALSE(json["sites"][1].contains("phase_bins"));
  EXPECT_EQ(json["sites"][1]["multiplicity"], 1024);
}

TEST(ReportTableTest, UnusualConventionsAndConditionNumbersAreTold) {
  const std::string table = ReportTable(UnusualReport(), kPlain);
  EXPECT_THAT(table, HasSubstr("PAPER_COMPAT (E8 E9 E10) · gauge dsf · rotation state"));
  EXPECT_THAT(table, HasSubstr("Eigenvalues by site  of products over 16 steps, every 4\n"));
  EXPECT_THAT(table, HasSubstr("windows"));
  EXPECT_THAT(table, HasSubstr("  25.0 % unresolved: 53 bits do not tell on which side of an edge |λ| lies\n"
                               "  condition numbers up to 1.5e+14; --precision multi resolves more\n"));
}

TEST(ReportCsvTest, UnusualConventionsAndConditionNumbersAreTold) {
  const std::string csv = ReportCsv(UnusualReport());
  EXPECT_THAT(csv, HasSubstr(",PAPER_COMPAT,E8 E9 E10,dsf,state,"));
  EXPECT_THAT(csv, HasSubstr(",63 1 inf,"));
  EXPECT_THAT(csv, HasSubstr(",1.5e+14,96,16,4\n"));
}

// The published schema, by an implementation of JSON Schema that no one here wrote.
class SchemaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::string(EIGSVC_ORACLE_PYTHON).empty()) GTEST_SKIP() << "no EIGSVC_ORACLE_PYTHON with jsonschema";
  }
  bool Valid(const std::string& json) {
    const std::string file = directory_.Write("output.json", json);
    const std::string command =
        std::string(EIGSVC_ORACLE_PYTHON) +
        " -c 'import json, sys, jsonschema\n"
        "schema = json.load(open(sys.argv[1]))\n"
        "jsonschema.Draft202012Validator.check_schema(schema)\n"
        "jsonschema.Draft202012Validator(schema).validate(json.load(open(sys.argv[2])))' " +
        SourcePath("docs/analysis-output.schema.json") + " " + file + " 2>" + directory_.path() + "/error";
    return std::system(command.c_str()) == 0;
  }
  std::string Error() { return ReadFile(directory_.path() + "/error"); }
  TemporaryDirectory directory_;
};

TEST_F(SchemaTest, AcceptsWhatIsWritten) {
  EXPECT_TRUE(Valid(ReportJson(SampleReport(false)))) << Error();
  EXPECT_TRUE(Valid(ReportJson(SampleReport(true)))) << Error();
  Report empty = SampleReport(false);
  empty.analysis.mutable_model()->clear_checkpoint_sha256();
  empty.analysis.mutable_result()->clear_sites();
  *empty.analysis.mutable_result()->add_sites() = testing::ToProto(0, "attention", 0, Spectrum());
  EXPECT_TRUE(Valid(ReportJson(empty))) << Error();
  EXPECT_TRUE(Valid(ReportJson(UnusualReport()))) << Error();
}

TEST_F(SchemaTest, RefusesWhatLacksOrTwistsAMember) {
  const Json good = Json::parse(ReportJson(SampleReport(true)));
  for (const char* member : {"schema_version", "analysis_id", "model", "checkpoint", "task", "score",
                             "definition", "gauge", "sites"}) {
    Json bad = good;
    bad.erase(member);
    EXPECT_FALSE(Valid(bad.dump())) << member;
    EXPECT_THAT(Error(), HasSubstr("is a required property"));
  }
  Json bins = good;
  bins["sites"][0]["paper_bins"].push_back(0.0);
  EXPECT_FALSE(Valid(bins.dump()));
  Json twin = good;
  twin["twin"]["score"]["value"] = "high";
  EXPECT_FALSE(Valid(twin.dump()));
}

TEST(CsvTest, QuotesWhatNeedsIt) {
  EXPECT_EQ(CsvRow({"a", "b,c", "d\"e", "f\ng", ""}), "a,\"b,c\",\"d\"\"e\",\"f\ng\",\n");
}

TEST(CsvTest, NumbersRoundTrip) {
  for (const double value : {0.1, 1.0 / 3, -1e-300, 5e-324, 123456789.123456789, 0.0}) {
    EXPECT_EQ(std::strtod(CsvNumber(value).c_str(), nullptr), value);
  }
  EXPECT_EQ(CsvNumber(-kInfinity), "");
  EXPECT_EQ(CsvNumber(std::nan("")), "");
}

TEST(NumberTextTest, MagnitudeKeepsTheDigitsThatMatter) {
  EXPECT_EQ(MagnitudeText(-kInfinity, kPlain), "0");
  EXPECT_EQ(MagnitudeText(0, kPlain), "1");
  EXPECT_EQ(MagnitudeText(std::log(0.5), kPlain), "0.500");
  EXPECT_EQ(MagnitudeText(std::log(0.0312), kPlain), "0.0312");
  EXPECT_EQ(MagnitudeText(std::log(0.991), kPlain), "0.9910");
  EXPECT_EQ(MagnitudeText(std::log1p(-1.3e-4), kPlain), "0.99987");
  EXPECT_EQ(MagnitudeText(-3.2e-8, kPlain), "1-3.2e-08");
  EXPECT_EQ(MagnitudeText(3.2e-8, kPlain), "1+3.2e-08");
  EXPECT_EQ(MagnitudeText(std::log1p(2.1e-3), kPlain), "1.0021");
  EXPECT_EQ(MagnitudeText(std::log(12.34), kPlain), "12.3");
  EXPECT_EQ(MagnitudeText(std::log(1.2e-5), kPlain), "1.2e-05");
  EXPECT_EQ(MagnitudeText(-2302.585092994046, kPlain), "1.0e-1000");
  EXPECT_EQ(MagnitudeText(std::nan(""), kAscii), "-");
}

TEST(NumberTextTest, HalfLifeIsInSteps) {
  EXPECT_EQ(HalfLifeText(std::log(0.5), kPlain), "1.00");
  EXPECT_EQ(HalfLifeText(std::log(0.5) / 42.5, kPlain), "42.5");
  EXPECT_EQ(HalfLifeText(std::log(0.5) / 5200, kPlain), "5.2k");
  EXPECT_EQ(HalfLifeText(0, kPlain), "∞");
  EXPECT_EQ(HalfLifeText(0, kAscii), "inf");
  EXPECT_EQ(HalfLifeText(0.1, kPlain), "grows");
  EXPECT_EQ(HalfLifeText(-kInfinity, kPlain), "0");
}

TEST(NumberTextTest, CountsSharesSizesAndTimes) {
  EXPECT_EQ(CountText(0), "0");
  EXPECT_EQ(CountText(999), "999");
  EXPECT_EQ(CountText(-1234567), "-1,234,567");
  EXPECT_EQ(ShortCountText(999), "999");
  EXPECT_EQ(ShortCountText(12345), "12.3k");
  EXPECT_EQ(ShortCountText(999'999), "1.0M");
  EXPECT_EQ(PercentText(0), "0");
  EXPECT_EQ(PercentText(0.0004), "<0.1");
  EXPECT_EQ(PercentText(0.9996), ">99.9");
  EXPECT_EQ(PercentText(1), "100");
  EXPECT_EQ(BytesText(1023), "1023 B");
  EXPECT_EQ(BytesText(3 << 19), "1.5 MiB");
  EXPECT_EQ(DurationText(absl::Milliseconds(820)), "0.82 s");
  EXPECT_EQ(DurationText(absl::Seconds(200)), "3 min 20 s");
  EXPECT_EQ(DurationText(absl::InfiniteDuration()), "?");
}

TEST(LayerSpectrumTest, TransportKeepsEveryCount) {
  Spectrum spectrum;
  const std::vector<double> values = {-1, -0.5, -1e-9, 0, 0.25, 700, -kInfinity, std::nan("")};
  spectrum.Add(values, 1e-7, 3);
  const Spectrum back = ToSpectrum(testing::ToProto(0, "attention", 0, spectrum));
  EXPECT_EQ(back.count(), spectrum.count());
  EXPECT_EQ(back.nonfinite(), spectrum.nonfinite());
  EXPECT_EQ(back.below_1(), spectrum.below_1());
  EXPECT_EQ(back.beyond_1(), spectrum.beyond_1());
  EXPECT_EQ(back.paper_bins(), spectrum.paper_bins());
  EXPECT_EQ(back.near_1(), spectrum.near_1());
  EXPECT_EQ(back.above_1(), spectrum.above_1());
  EXPECT_NEAR(back.Mean(), spectrum.Mean(), 1e-12);
  EXPECT_NEAR(back.Std(), spectrum.Std(), 1e-9);
}

TEST(LayerSpectrumTest, LayersAreTheSumOfTheirHeads) {
  Spectrum first, second, both;
  const std::vector<double> slow = {-0.001, -0.002, -0.004}, fast = {-1, -2, -4, -8, 0.5};
  first.Add(slow, 0);
  second.Add(fast, 0);
  both.Add(slow, 0);
  both.Add(fast, 0);
  google::protobuf::RepeatedPtrField<v1::SiteSpectrum> sites;
  *sites.Add() = testing::ToProto(3, "mamba2", 0, first);
  *sites.Add() = testing::ToProto(3, "mamba2", 1, second);
  *sites.Add() = testing::ToProto(3, "attention", 0, second);
  const std::vector<LayerSpectrum> layers = MergeLayers(sites);
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0].mixer, "attention");
  EXPECT_EQ(layers[1].units, 2);
  EXPECT_EQ(layers[1].spectrum.count(), 8u);
  EXPECT_NEAR(layers[1].spectrum.Mean(), both.Mean(), 1e-12);
  EXPECT_EQ(layers[1].spectrum.Quantile(0.5), both.Quantile(0.5));
  EXPECT_EQ(layers[1].spectrum.Max(), 0.5);
}

TEST(LayerSpectrumTest, BinsOutOfRangeAreDropped) {
  v1::SiteSpectrum site = testing::ToProto(0, "mamba2", 0, Spectrum());
  site.mutable_bins()->add_below_1_index(-1);
  site.mutable_bins()->add_below_1_count(5);
  site.mutable_bins()->add_below_1_index(1 << 30);
  site.mutable_bins()->add_below_1_count(5);
  site.mutable_bins()->add_below_1_index(0);  // without a count
  EXPECT_THAT(ToSpectrum(site).below_1(), Each(0u));
}

TEST(MagnitudeAxisTest, SharesSumToOneWhereverTheEigenvaluesAre) {
  const std::vector<std::vector<double>> cases = {
      {-1, -2, -0.001}, {-1e-20, -3000}, {0, 0}, {-kInfinity}, {0.5, 2}, {-1, 0, 1, -kInfinity, 400}, {-0.7}};
  for (const std::vector<double>& values : cases) {
    Spectrum spectrum;
    spectrum.Add(values, 0);
    for (const int columns : {16, 40, 80}) {
      const MagnitudeAxis axis({&spectrum}, columns);
      const std::vector<double> shares = axis.Shares(spectrum);
      ASSERT_EQ(static_cast<int>(shares.size()), columns);
      EXPECT_NEAR(std::accumulate(shares.begin(), shares.end(), 0.0), 1.0, 1e-9);
    }
  }
}

TEST(MagnitudeAxisTest, OrderIsThatOfTheMagnitude) {
  Spectrum spectrum;
  const std::vector<double> values = {-100, -0.001, 0, 0.001, 100};
  spectrum.Add(values, 0);
  const MagnitudeAxis axis({&spectrum}, 80);
  int before = -1;
  for (const double log_magnitude : {-kInfinity, -100.0, -1.0, -0.01, 0.0, 0.01, 1.0, kInfinity}) {
    EXPECT_GE(axis.ColumnOf(log_magnitude), before) << log_magnitude;
    before = axis.ColumnOf(log_magnitude);
  }
  EXPECT_EQ(axis.ColumnOf(-kInfinity), 0);
  EXPECT_EQ(axis.ColumnOf(kInfinity), 79);
  EXPECT_THAT(axis.MagnitudeTicks(), HasSubstr(" 1 "));
}

TEST(MagnitudeAxisTest, MassIsDrawnWhereItIs) {
  Spectrum spectrum;
  const std::vector<double> values(1000, std::log(0.99));
  spectrum.Add(values, 0);
  const MagnitudeAxis axis({&spectrum}, 60);
  const std::vector<double> shares = axis.Shares(spectrum);
  double near = 0;
  for (int c = axis.ColumnOf(std::log(0.99)) - 1; c <= axis.ColumnOf(std::log(0.99)) + 1; ++c)
    near += shares[c];
  EXPECT_NEAR(near, 1, 1e-9);
}

TEST(TableTest, AlignsByDisplayWidth) {
  Table table({{"a"}, {"number", Table::Align::kRight}, {"b"}});
  table.Add({"≈", "1", "x"});
  table.Add({"long", "22", ""});
  EXPECT_EQ(table.Render(kPlain, 0), "a     number  b\n≈          1  x\nlong      22\n");
}

TEST(LocaleTest, FirstSetVariableDecides) {
  std::map<std::string, std::string> env;
  const auto utf8 = [&] {
    return LocaleIsUtf8(
        [&](const std::string& name) { return env.count(name) ? env.at(name) : std::string(); });
  };
  EXPECT_FALSE(utf8());
  env["LANG"] = "en_GB.UTF-8";
  EXPECT_TRUE(utf8());
  env["LC_ALL"] = "C";
  EXPECT_FALSE(utf8());
  env["LC_ALL"] = "C.utf8";
  EXPECT_TRUE(utf8());
}

}  // namespace
}  // namespace eigsvc::cli
