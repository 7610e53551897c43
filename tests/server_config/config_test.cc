#include "server/config/config.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "nlohmann/json.hpp"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

absl::StatusOr<ParsedConfig> Parse(std::vector<std::string> arguments) {
  std::vector<const char*> argv = {"eigsvcd"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  return ParseServerConfig(static_cast<int>(argv.size()), argv.data());
}

class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }

 private:
  const char* name_;
};

TEST(ConfigTest, DefaultsListenOnLoopbackOnly) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(ParsedConfig parsed, Parse({}));
  EXPECT_EQ(parsed.exit_text, "");
  EXPECT_EQ(parsed.config.listen, "127.0.0.1:50151");
  EXPECT_EQ(parsed.config.http_listen, "127.0.0.1:9464");
  EXPECT_THAT(parsed.config.worker_binary, EndsWith("/bin/eigsvc-worker"));
  EXPECT_THAT(parsed.config.devices, ElementsAre("auto"));
  EXPECT_FALSE(parsed.config.private_server);
}

TEST(ConfigTest, FlagWinsOverEnvironmentWinsOverDefault) {
  Variable capacity("EIGSVC_QUEUE_CAPACITY", "7");
  EIGSVC_ASSERT_OK_AND_ASSIGN(ParsedConfig from_environment, Parse({}));
  EXPECT_EQ(from_environment.config.queue_capacity, 7);
  EIGSVC_ASSERT_OK_AND_ASSIGN(ParsedConfig from_flag, Parse({"--queue-capacity", "9"}));
  EXPECT_EQ(from_flag.config.queue_capacity, 9);
}

TEST(ConfigTest, ReadsSizesDurationsListsAndSwitches) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(ParsedConfig parsed,
                              Parse({"--model-memory-bytes=3GiB", "--spool-bytes", "500MB", "--upload-bytes",
                                     "12", "--lame-duck", "1m30s", "--cancel-grace=250ms", "--devices",
                                     "cuda:0,cuda:1,cpu", "--no-reflection", "--worker-threads", "2"}));
  EXPECT_EQ(parsed.config.model_memory_bytes, int64_t{3} << 30);
  EXPECT_EQ(parsed.config.spool_bytes, 500000000);
  EXPECT_EQ(parsed.config.upload_bytes, 12);
  EXPECT_EQ(parsed.config.lame_duck, absl::Seconds(90));
  EXPECT_EQ(parsed.config.cancel_grace, absl::Milliseconds(250));
  EXPECT_THAT(parsed.config.devices, ElementsAre("cuda:0", "cuda:1", "cpu"));
  EXPECT_FALSE(parsed.config.reflection);
  EXPECT_EQ(parsed.config.worker_threads, 2);
}

TEST(ConfigTest, SwitchesReadTheEnvironmentAndFlagsOverrideThem) {
  Variable reflection("EIGSVC_REFLECTION", "off");
  Variable remote("EIGSVC_ALLOW_REMOTE", "true");
  EIGSVC_ASSERT_OK_AND_ASSIGN(ParsedConfig parsed, Parse({}));
  EXPECT_FALSE(parsed.config.reflection);
  EXPECT_TRUE(parsed.config.allow_remote);
  EIGSVC_ASSERT_OK_AND_ASSIGN(parsed, Parse({"--reflection", "--no-allow-remote"}));
  EXPECT_TRUE(parsed.config.reflection);
  EXPECT_FALSE(parsed.config.allow_remote);
}

struct BadCase {
  std::vector<std::string> arguments;
  std::vector<std::string> message_has;
};
void PrintTo(const BadCase& bad, std::ostream* os) { *os << absl::StrJoin(bad.arguments, " "); }

class BadConfigTest : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadConfigTest, IsRefusedWithWhatIsAllowed) {
  const absl::Status status = Parse(GetParam().arguments).status();
  for (const std::string& part : GetParam().message_has)
    EXPECT_THAT(status, StatusIs(kInvalid, HasSubstr(part)));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, BadConfigTest,
    ::testing::Values(
        BadCase{{"--lisen", "127.0.0.1:1"}, {"unknown flag \"--lisen\"", "did you mean \"--listen\"?"}},
        BadCase{{"--lisen=127.0.0.1:1"}, {"unknown flag \"--lisen\"", "did you mean \"--listen\"?"}},
        BadCase{{"--queue_capacity", "3"}, {"did you mean \"--queue-capacity\"?"}},
        BadCase{{"serve"}, {"unexpected argument \"serve\"", "--help"}},
        BadCase{{"--listen"}, {"--listen", "--help"}},
        BadCase{{"--queue-capacity", "0"}, {"--queue-capacity: \"0\"", "from 1 to"}},
        BadCase{{"--queue-capacity", "many"}, {"--queue-capacity: \"many\"", "whole number"}},
        BadCase{{"--queue-capacity", "1", "--queue-capacity", "2"}, {"--queue-capacity"}},
        BadCase{{"--queue-capacity", "99999999999999999999"}, {"--queue-capacity", "whole number"}},
        BadCase{{"--worker-threads=-1"}, {"--worker-threads: \"-1\"", "from 0 to"}},
        BadCase{{"--model-memory-bytes", "8gigs"}, {"--model-memory-bytes: \"8gigs\"", "8GiB"}},
        BadCase{{"--model-memory-bytes", "GiB"}, {"whole number of bytes"}},
        BadCase{{"--model-memory-bytes", "1.5GiB"}, {"whole number of bytes"}},
        BadCase{{"--model-memory-bytes=-1GiB"}, {"whole number of bytes"}},
        BadCase{{"--model-memory-bytes", "9999999999TiB"}, {"whole number of bytes"}},
        BadCase{{"--model-memory-bytes", "0"}, {"at least 1"}},
        BadCase{{"--lame-duck", "5"}, {"--lame-duck: \"5\"", "with a unit"}},
        BadCase{{"--lame-duck=-5s"}, {"--lame-duck: \"-5s\"", "from 0"}},
        BadCase{{"--lame-duck", "inf"}, {"to 1h"}}, BadCase{{"--cancel-grace", "0ms"}, {"from 1ms"}},
        BadCase{{"--log-level", "verbose"},
                {"--log-level: \"verbose\"", "trace, debug, info, warning, error"}},
        BadCase{{"--log-format", "xml"}, {"auto, json, text"}},
        BadCase{{"--devices", "gpu"}, {"--devices: \"gpu\"", "cuda:0"}},
        BadCase{{"--devices", "cuda:"}, {"--devices"}}, BadCase{{"--devices", "cuda:-1"}, {"--devices"}},
        BadCase{{"--devices", "cpu,cpu"}, {"different"}}, BadCase{{"--devices", "auto,cpu"}, {"--devices"}},
        BadCase{{"--devices", ""}, {"--devices"}}, BadCase{{"--devices", "cuda:0+cpu"}, {"--devices"}},
        BadCase{{"--devices", "cuda:0+cuda:0"}, {"different"}},
        BadCase{{"--devices", "cuda:0,cuda:1+cuda:0"}, {"different"}},
        BadCase{{"--devices", "cuda:0+"}, {"--devices"}},
        BadCase{{"--devices", "auto+cuda:0"}, {"--devices"}},
        BadCase{{"--listen", "0.0.0.0:1"},
                {"--listen: \"0.0.0.0:1\"", "reachable from other machines", "--allow-remote"}},
        BadCase{{"--listen", "[::]:1"}, {"--allow-remote"}},
        BadCase{{"--listen", "example.org:1"}, {"--allow-remote"}},
        BadCase{{"--http-listen", "10.0.0.1:9464"}, {"--http-listen: \"10.0.0.1:9464\"", "--allow-remote"}},
        BadCase{{"--listen", "127.0.0.1"}, {"HOST:PORT"}},
        BadCase{{"--listen", "127.0.0.1:65536"}, {"65535"}}, BadCase{{"--listen", "127.0.0.1:+1"}, {"65535"}},
        BadCase{{"--listen", "127.0.0.1:http"}, {"HOST:PORT"}}, BadCase{{"--listen", ":1"}, {"HOST:PORT"}},
        BadCase{{"--listen", "::1:1"}, {"HOST:PORT"}},
        BadCase{{"--listen", "a\nb:1"}, {"a\\nb:1", "HOST:PORT"}},
        BadCase{{"--listen", "unix:eigsvc.sock"}, {"absolute path"}},
        BadCase{{"--listen", absl::StrCat("unix:/", std::string(107, 'x'))}, {"107 bytes"}},
        BadCase{{"--http-listen", "unix:/tmp/x"}, {"--http-listen", "HOST:PORT"}},
        BadCase{{"--private-server", "--http-listen", "127.0.0.1:1"}, {"--http-listen", "no HTTP port"}},
        BadCase{{"--scratch-dir", "/tmp/x", "--state-dir", "/tmp/x/state"},
                {"--scratch-dir", "--private-server"}},
        BadCase{{"--private-server", "--scratch-dir", "/tmp/x", "--state-dir", "/tmp/y"},
                {"--scratch-dir", "--state-dir"}},
        BadCase{{"--reflection=perhaps"}, {"--reflection", "true or false"}},
        BadCase{{"--help=perhaps"}, {"--help"}}));

TEST(ConfigTest, BadEnvironmentIsNamedAsSuch) {
  Variable level("EIGSVC_LOG_LEVEL", "loud");
  EXPECT_THAT(Parse({}),
              StatusIs(kInvalid, AllOf(HasSubstr("EIGSVC_LOG_LEVEL: \"loud\""), HasSubstr("warning"))));
}

TEST(ConfigTest, TakesEveryKindOfLocalAddress) {
  for (const char* address :
       {"127.0.0.1:0", "127.8.9.10:1", "localhost:65535", "[::1]:7", "unix:/run/eigsvc.sock"}) {
    EIGSVC_EXPECT_OK(Parse({"--listen", address})) << address;
  }
  EIGSVC_EXPECT_OK(Parse({"--listen", "0.0.0.0:1", "--http-listen", "[::]:2", "--allow-remote"}));
}

TEST(ConfigTest, PrivateServerHasNoHttpPort) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(ParsedConfig parsed, Parse({"--private-server", "--listen", "unix:/tmp/x/s"}));
  EXPECT_EQ(parsed.config.http_listen, "");
  EXPECT_TRUE(parsed.config.private_server);
}

TEST(ConfigTest, EmptyHttpAddressTurnsItOff) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(ParsedConfig parsed, Parse({"--http-listen", ""}));
  EXPECT_EQ(parsed.config.http_listen, "");
}

TEST(ConfigTest, StateDirFollowsXdgThenHome) {
  const char* saved = std::getenv("HOME");
  const std::string home = saved == nullptr ? "" : saved;
  unsetenv("XDG_STATE_HOME");
  setenv("HOME", "/home/someone", 1);
  EIGSVC_ASSERT_OK_AND_ASSIGN(ParsedConfig parsed, Parse({}));
  EXPECT_EQ(parsed.config.state_dir, "/home/someone/.local/state/eigsvc");
  {
    Variable state("XDG_STATE_HOME", "/var/state");
    EIGSVC_ASSERT_OK_AND_ASSIGN(parsed, Parse({}));
    EXPECT_EQ(parsed.config.state_dir, "/var/state/eigsvc");
  }
  unsetenv("HOME");
  EXPECT_THAT(Parse({}), StatusIs(kInvalid, HasSubstr("--state-dir")));
  setenv("HOME", home.c_str(), 1);
}

// Every key of --print-config is a flag, is described by --help with its default and its variable, and its
// printed value given back as that flag prints the same.
TEST(ConfigTest, PrintedConfigurationRoundTripsThroughItsOwnFlags) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      ParsedConfig first,
      Parse({"--lame-duck", "90s", "--model-memory-bytes", "3GiB", "--devices", "cpu,cuda:1",
             "--no-reflection", "--listen", "[::1]:9", "--checkpoint-root", "/a \"b\"\\c"}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(ParsedConfig help, Parse({"--help"}));
  const nlohmann::ordered_json json = nlohmann::ordered_json::parse(ConfigToJson(first.config));
  EXPECT_EQ(json.size(), 23u);
  std::vector<std::string> arguments;
  for (const auto& [key, value] : json.items()) {
    const std::string name = absl::StrReplaceAll(key, {{"_", "-"}});
    EXPECT_THAT(help.exit_text, HasSubstr(absl::StrCat("EIGSVC_", absl::AsciiStrToUpper(key), ".")));
    if (value.is_boolean()) {
      arguments.push_back(absl::StrCat(value.get<bool>() ? "--" : "--no-", name));
    } else if (value.is_array()) {
      arguments.insert(arguments.end(),
                       {absl::StrCat("--", name), absl::StrJoin(value.get<std::vector<std::string>>(), ",")});
    } else {
      arguments.insert(arguments.end(), {absl::StrCat("--", name),
                                         value.is_string() ? value.get<std::string>() : value.dump()});
    }
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(ParsedConfig second, Parse(arguments));
  EXPECT_EQ(ConfigToJson(second.config), ConfigToJson(first.config));
  EXPECT_EQ(json["lame_duck"], "1m30s");
  EXPECT_EQ(json["model_memory_bytes"], int64_t{3} << 30);
}

TEST(ConfigTest, HelpNamesDefaultsAndVersionIsOneLine) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(ParsedConfig help, Parse({"-h"}));
  EXPECT_THAT(help.exit_text, AllOf(HasSubstr("--queue-capacity N"),
                                    HasSubstr("Default: 64. Environment: EIGSVC_QUEUE_CAPACITY."),
                                    HasSubstr("--[no-]reflection"), HasSubstr("~/.local/state/eigsvc"),
                                    HasSubstr("\"150ms\""), HasSubstr("--print-config")));
  EIGSVC_ASSERT_OK_AND_ASSIGN(ParsedConfig version, Parse({"--version"}));
  EXPECT_THAT(version.exit_text, ::testing::MatchesRegex("eigsvcd [0-9]+\\.[0-9]+\\.[0-9]+\n"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(ParsedConfig print, Parse({"--print-config"}));
  EXPECT_TRUE(print.config.print_config);
  EXPECT_EQ(print.exit_text, "");
}

TEST(ConfigTest, ConfigurationWithForeignBytesStillPrints) {
  ServerConfig config;
  config.checkpoint_root = "/data/\xff";
  EXPECT_TRUE(nlohmann::json::accept(ConfigToJson(config)));
}

}  // namespace
}  // namespace eigsvc
