#include "models/zoo/settings_reader.h"

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/mixers/weights.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::StatusIs;

TEST(SettingsReaderTest, TakesTheFirstNameThatIsPresent) {
  const Settings settings =
      *Settings::Parse(R"({"hidden_size": 8, "ssm_cfg": {"d_state": 4}})", "config.json");
  SettingsReader reader(settings);
  EXPECT_EQ(reader.Int({"d_model", "hidden_size"}), 8);
  EXPECT_EQ(reader.Int({"d_state", "ssm_cfg.d_state"}, 16), 4);
  EXPECT_EQ(reader.Int({"n_layer"}, 3), 3);
  EIGSVC_EXPECT_OK(reader.status());
}

TEST(SettingsReaderTest, TwoNamesOfOneSizeMustAgree) {
  const Settings settings =
      *Settings::Parse(R"({"hidden_size": 8, "d_model": 8, "n_layer": 2, "num_layers": 3})", "config.json");
  SettingsReader reader(settings);
  EXPECT_EQ(reader.Int({"d_model", "hidden_size"}), 8);
  EIGSVC_EXPECT_OK(reader.status());
  reader.Int({"num_layers", "n_layer"});
  EXPECT_THAT(reader.status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("\"num_layers\" (3)"), HasSubstr("\"n_layer\" (2)"))));
}

TEST(SettingsReaderTest, TheFirstErrorSticksAndNamesTheSetting) {
  const Settings settings = *Settings::Parse(R"({"n_layer": "many"})", "config.json");
  SettingsReader reader(settings);
  reader.Int({"d_model"});
  reader.Int({"n_layer"});
  EXPECT_THAT(reader.status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("d_model"), HasSubstr("config.json"), HasSubstr("--config"))));
}

TEST(SettingsReaderTest, RefusesWhatIsOutOfRange) {
  const Settings settings = *Settings::Parse(R"({"n_layer": 99999999})", "config.json");
  SettingsReader reader(settings);
  reader.IntWithin({"n_layer"}, 1, 100);
  EXPECT_THAT(reader.status(),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("n_layer"), HasSubstr("100"))));
}

TEST(SettingsReaderTest, ARefusalNamesTheSettingsItComesFromAsTheyAreSpelt) {
  const Settings settings =
      *Settings::Parse(R"({"hidden_size": 8, "ssm_cfg": {"d_ssm": 20}})", "config.json");
  SettingsReader reader(settings);
  const absl::string_view width = reader.Spelt({"d_model", "hidden_size"});
  EXPECT_EQ(width, "hidden_size");
  EXPECT_EQ(reader.Int({"n_heads", "num_heads"}, 3), 3);
  EXPECT_THAT(reader.Disagree("no", {width, reader.Spelt({"n_heads", "num_heads"})}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("\"hidden_size\" = 8"), HasSubstr("\"n_heads\" = 3"))));
  EIGSVC_EXPECT_OK(reader.Naming(absl::OkStatus(), {width}));
  EXPECT_EQ(reader.IntWithin({"ssm_cfg.d_ssm"}, 1, 16, std::nullopt, {width}), 16) << "the nearest allowed";
  EXPECT_THAT(reader.status(), StatusIs(absl::StatusCode::kInvalidArgument,
                                        AllOf(HasSubstr("d_ssm"), HasSubstr("\"hidden_size\" = 8"))));
}

TEST(SettingsReaderTest, RealsAndChoicesAreWhatTheyMustBe) {
  const Settings settings = *Settings::Parse(
      R"({"nan": NaN, "inf": Infinity, "negative": -1e-9, "zero": 0, "one": 1, "kind": "odd"})",
      "config.json");
  const auto refused = [&](const char* name, const auto& read) {
    SettingsReader reader(settings);
    read(reader);
    EXPECT_FALSE(reader.status().ok()) << name;
    EXPECT_THAT(std::string(reader.status().message()), HasSubstr(name));
  };
  refused("nan", [](SettingsReader& reader) { reader.Real({"nan"}); });
  refused("inf", [](SettingsReader& reader) { reader.Real({"inf"}); });
  refused("negative", [](SettingsReader& reader) { reader.NonNegative({"negative"}, 0); });
  refused("zero", [](SettingsReader& reader) { reader.Positive({"zero"}, 1); });
  refused("one", [](SettingsReader& reader) { reader.Dropout({"one"}); });
  refused("kind", [](SettingsReader& reader) { reader.Choice({"kind"}, {"even"}, "even"); });
  SettingsReader reader(settings);
  EXPECT_EQ(reader.NonNegative({"zero"}, 1), 0);
  EXPECT_EQ(reader.Positive({"one"}, 2), 1);
  EXPECT_EQ(reader.Dropout({"none"}), 0);
  EXPECT_EQ(reader.Choice({"kind"}, {"even", "odd"}, "even"), "odd");
  EIGSVC_EXPECT_OK(reader.status());
  EXPECT_EQ(WholePart(2.9), 2);
  EXPECT_LT(WholePart(-1e300), 1);
  EXPECT_LT(WholePart(std::numeric_limits<double>::quiet_NaN()), 1);
  EXPECT_GT(WholePart(1e300), kLargestSize);
}

TEST(SettingsReaderTest, ASettingAgainstTheWeightsNamesBoth) {
  const Settings settings = *Settings::Parse(R"({"vocab_size": 100})", "config.json");
  {
    SettingsReader reader(settings);
    EXPECT_EQ(reader.StoredSize({"vocab_size"}, 100, 1, 1000, 7), 100);
    EXPECT_EQ(reader.StoredSize({"width"}, 32, 1, 1000, 7), 32) << "the weights where nothing is stated";
    EXPECT_EQ(reader.StoredSize({"width"}, std::nullopt, 1, 1000, 7), 7) << "a fresh model";
    EIGSVC_EXPECT_OK(reader.status());
  }
  SettingsReader reader(settings);
  reader.StoredSize({"vocab", "vocab_size"}, 128, 1, 1000, 7);
  EXPECT_THAT(reader.status(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                        AllOf(HasSubstr("\"vocab_size\""), HasSubstr("config.json"),
                                              HasSubstr("100"), HasSubstr("128"))));
}

TEST(SettingsReaderTest, ReadsTheInfinitiesOfPython) {
  for (const char* json :
       {R"({"limit": [0.5, Infinity]})", R"({"limit": [0.5, {"__float__": "Infinity"}]})"}) {
    const Settings settings = *Settings::Parse(json, "config.json");
    SettingsReader reader(settings);
    const std::vector<double> limit = reader.Reals({"limit"}, {});
    ASSERT_EQ(limit.size(), 2u) << json;
    EXPECT_EQ(limit[1], std::numeric_limits<double>::infinity()) << json;
  }
  const Settings quoted = *Settings::Parse(R"({"a": "NaN \" Infinity", "b": NaN})", "config.json");
  EXPECT_EQ(*quoted.Text("a"), "NaN \" Infinity");
}

TEST(SettingsReaderTest, ResolvedSettingsReadBackTheSame) {
  const Settings settings = *Settings::Parse(R"({"limit": [0.5, Infinity], "old": 1})", "config.json");
  SettingsReader reader(settings);
  reader.Reals({"limit"}, {});
  reader.Int({"cfg.n", "n"}, 3);
  reader.Ignore({"old"});
  EIGSVC_EXPECT_OK(reader.RefuseUnknown(settings, "f"));
  const Settings resolved = *Settings::Parse(reader.Resolved("f", "l").ToJson(), "again");
  EXPECT_EQ(*resolved.Reals("limit"), (std::vector<double>{0.5, std::numeric_limits<double>::infinity()}));
  EXPECT_EQ(*resolved.Int("cfg.n"), 3);
  EXPECT_FALSE(resolved.Has("old"));
}

TEST(MatchesPatternTest, StarsStandForAnything) {
  EXPECT_TRUE(MatchesPattern("h.3.attn.bias", "h.*.attn.bias"));
  EXPECT_TRUE(MatchesPattern("a.rotary_emb.inv_freq", "*.rotary_emb.inv_freq"));
  EXPECT_TRUE(MatchesPattern("abcabd", "a*b*d"));
  EXPECT_TRUE(MatchesPattern("x", "x"));
  EXPECT_FALSE(MatchesPattern("h.3.attn.biased", "h.*.attn.bias"));
  EXPECT_FALSE(MatchesPattern("ab", "ab*b"));
  EXPECT_FALSE(MatchesPattern("abd", "a*c*d"));
}

}  // namespace
}  // namespace eigsvc
