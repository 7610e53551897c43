#include "models/base/settings.h"

#include <nlohmann/json.hpp>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::IsOk;
using ::eigsvc::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Settings Sample() {
  return Settings::Parse(
             R"({"dim": 64, "eps": 1e-5, "tie": true, "name": "tiny", "null": null, "whole": 8.0, "half": 0.5,
                             "text_int": "12", "text_real": "0.25", "text_bool": "true", "list": [1, 2.0, "3"],
                             "words": ["a", "b"], "mixed": [1, "a"], "rope": {"factor": 4, "deep": {"x": 1}},
                             "large": 18446744073709551615, "negative": -7})",
             "config.json")
      .value();
}

auto Missing(const std::string& key) {
  return StatusIs(absl::StatusCode::kFailedPrecondition,
                  AllOf(HasSubstr("\"" + key + "\""), HasSubstr("config.json"), HasSubstr("--config")));
}
auto WrongType(const std::string& wanted) {
  return StatusIs(absl::StatusCode::kInvalidArgument,
                  AllOf(HasSubstr("config.json"), HasSubstr("must be " + wanted)));
}

TEST(SettingsTest, ValuesOfEachType) {
  const Settings settings = Sample();
  EXPECT_EQ(settings.Int("dim").value(), 64);
  EXPECT_EQ(settings.Int("negative").value(), -7);
  EXPECT_EQ(settings.Int("whole").value(), 8);
  EXPECT_EQ(settings.Int("text_int").value(), 12);
  EXPECT_EQ(settings.Real("eps").value(), 1e-5);
  EXPECT_EQ(settings.Real("dim").value(), 64);
  EXPECT_EQ(settings.Real("text_real").value(), 0.25);
  EXPECT_TRUE(settings.Bool("tie").value());
  EXPECT_TRUE(settings.Bool("text_bool").value());
  EXPECT_EQ(settings.Text("name").value(), "tiny");
  EXPECT_THAT(settings.Ints("list").value(), ElementsAre(1, 2, 3));
  EXPECT_THAT(settings.Texts("words").value(), ElementsAre("a", "b"));
}

TEST(SettingsTest, AWrongTypeOfMergedOnesIsBlamedOnItsOwnSource) {
  const Settings given = Settings::Parse(R"({"dim": "abc", "rope": {"factor": "x"}})", "--param").value();
  const Settings merged = Sample().MergedWith(given);
  const auto blames = [](const std::string& source, const std::string& other) {
    return StatusIs(absl::StatusCode::kInvalidArgument,
                    AllOf(HasSubstr(source), ::testing::Not(HasSubstr(other))));
  };
  EXPECT_THAT(merged.Int("dim"), blames("--param", "config.json"));
  EXPECT_THAT(merged.Real("rope.factor"), blames("--param", "config.json"));
  EXPECT_THAT(merged.Int("name"), blames("config.json", "--param"));
  EXPECT_EQ(merged.OriginOf("rope.deep.x"), "config.json");
  EXPECT_EQ(merged.MergedWith(Settings()).OriginOf("dim"), "--param");
}

TEST(SettingsTest, AWrongTypeIsNamedAndNeverReplacedByTheDefault) {
  const Settings settings = Sample();
  EXPECT_THAT(settings.Int("half"), WrongType("an integer"));
  EXPECT_THAT(settings.Int("name"), WrongType("an integer"));
  EXPECT_THAT(settings.Int("large"), WrongType("an integer"));
  EXPECT_THAT(settings.Int("tie"), WrongType("an integer"));
  EXPECT_THAT(settings.Real("tie"), WrongType("a number"));
  EXPECT_THAT(settings.Bool("dim"), WrongType("true or false"));
  EXPECT_THAT(settings.Text("dim"), WrongType("a string"));
  EXPECT_THAT(settings.Ints("dim"), WrongType("a list of integers"));
  EXPECT_THAT(settings.Ints("mixed"), WrongType("a list of integers"));
  EXPECT_THAT(settings.Texts("mixed"), WrongType("a list of strings"));
  EXPECT_THAT(settings.Child("dim"), WrongType("an object"));
  EXPECT_THAT(settings.IntOr("half", 1), WrongType("an integer"));
  EXPECT_THAT(settings.RealOr("name", 1), WrongType("a number"));
  EXPECT_THAT(settings.BoolOr("name", true), WrongType("true or false"));
  EXPECT_THAT(settings.TextOr("dim", ""), WrongType("a string"));
}

TEST(SettingsTest, AMissingKeyIsNamedWithItsOriginAndRemedy) {
  const Settings settings = Sample();
  EXPECT_THAT(settings.Int("heads"), Missing("heads"));
  EXPECT_THAT(settings.Text("null"), Missing("null"));  // null counts as absent
  EXPECT_THAT(settings.Int("rope.theta"), Missing("rope.theta"));
  EXPECT_THAT(settings.Int("dim.x"), Missing("dim.x"));
  EXPECT_EQ(settings.IntOr("heads", 3).value(), 3);
  EXPECT_EQ(settings.RealOr("null", 0.5).value(), 0.5);
  EXPECT_TRUE(settings.BoolOr("absent", true).value());
  EXPECT_EQ(settings.TextOr("absent", "x").value(), "x");
  EXPECT_FALSE(settings.Has("null"));
  EXPECT_THAT(Settings().Int("x"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("the settings")));
}

TEST(SettingsTest, DotsReachNestedObjects) {
  const Settings settings = Sample();
  EXPECT_EQ(settings.Int("rope.factor").value(), 4);
  EXPECT_EQ(settings.Int("rope.deep.x").value(), 1);
  const Settings rope = settings.Child("rope").value();
  EXPECT_EQ(rope.Int("factor").value(), 4);
  EXPECT_THAT(rope.Int("gone"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("config.json (rope)")));
  EXPECT_TRUE(settings.Child("absent").value().empty());
}

TEST(SettingsTest, BadJsonIsRefused) {
  const auto refused = [](const std::string& what) {
    return StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("--config"), HasSubstr(what)));
  };
  EXPECT_THAT(Settings::Parse("{", "--config"), refused("not valid JSON"));
  EXPECT_THAT(Settings::Parse("", "--config"), refused("not valid JSON"));
  EXPECT_THAT(Settings::Parse("{} x", "--config"), refused("not valid JSON"));
  EXPECT_THAT(Settings::Parse("{\"a\": \"\xff\"}", "--config"), refused("not valid JSON"));
  EXPECT_THAT(Settings::Parse("[1]", "--config"), refused("JSON object"));
  EXPECT_THAT(Settings::Parse("3", "--config"), refused("JSON object"));
  EXPECT_THAT(Settings::Parse(std::string(1'000'000, '['), "--config"), refused("nests deeper"));
  EXPECT_THAT(Settings::Parse(std::string((16 << 20) + 1, ' '), "--config"), refused("16 MiB"));
  std::string nested = "1";
  for (int i = 0; i < 30; ++i) nested = "{\"a\":" + nested + "}";
  EXPECT_THAT(Settings::Parse(nested, "--config"), IsOk());
}

TEST(SettingsTest, MergingPrefersTheLaterAndJoinsObjects) {
  const Settings base =
      Settings::Parse(R"({"a": 1, "b": {"x": 1, "y": 2}, "c": [1, 2]})", "metadata").value();
  const Settings over = Settings::Parse(R"({"a": "2", "b": {"y": 3}, "c": [4]})", "--config").value();
  const Settings merged = base.MergedWith(over);
  EXPECT_EQ(merged.ToJson(), R"({"a":"2","b":{"x":1,"y":3},"c":[4]})");
  EXPECT_THAT(merged.Int("z"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("metadata with --config")));
  EXPECT_EQ(base.ToJson(), R"({"a":1,"b":{"x":1,"y":2},"c":[1,2]})");
  const Settings nulls =
      Settings::Parse(R"({"a": null, "b": {"x": null}, "d": {"z": 1}})", "--config").value();
  EXPECT_EQ(base.MergedWith(nulls).ToJson(), R"({"a":null,"b":{"x":null,"y":2},"c":[1,2],"d":{"z":1}})");
  EXPECT_EQ(Settings().MergedWith(over).origin(), "--config");
}

TEST(SettingsTest, SettingChangesOnlyThisCopy) {
  Settings first = Sample();
  const Settings second = first;
  first.Set("dim", int64_t{5});
  first.Set("flag", true);
  first.Set("rate", 0.5);
  first.Set("word", "text");
  first.Set("child", Settings::Parse(R"({"k": 1})", "").value());
  first.Set("dotted.key", int64_t{1});
  EXPECT_EQ(first.Int("dim").value(), 5);
  EXPECT_TRUE(first.Bool("flag").value());
  EXPECT_EQ(first.Real("rate").value(), 0.5);
  EXPECT_EQ(first.Text("word").value(), "text");
  EXPECT_EQ(first.Int("child.k").value(), 1);
  EXPECT_TRUE(first.object().contains("dotted.key"));
  EXPECT_EQ(second.Int("dim").value(), 64);
  EXPECT_FALSE(second.Has("flag"));
}

TEST(SettingsTest, JsonIsCanonical) {
  EXPECT_EQ(Settings::Parse("{\"b\": 1,\n \"a\": {\"d\": 0.1, \"c\": []}}", "").value().ToJson(),
            R"({"a":{"c":[],"d":0.1},"b":1})");
  EXPECT_THAT(Settings::Parse("{\"b\": 1, \"a\": 2}", "").value().Keys(), ElementsAre("a", "b"));
  EXPECT_TRUE(Settings(nlohmann::json::array({1}), "").empty());
}

}  // namespace
}  // namespace eigsvc
