#include "client/cli/servers.h"

#include "absl/strings/str_cat.h"
#include "client/cli/analysis_json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/cli_harness.h"
#include "tests/client/fake_server.h"

namespace eigsvc::cli {
namespace {

using testing::CliResult;
using ::testing::ElementsAre;
using testing::FakeServer;
using ::testing::HasSubstr;
using testing::RunCli;
using ::testing::SizeIs;
using Addresses = std::vector<std::string>;

Addresses Of(const std::string& target, const Addresses& known) {
  return ServersOf(target,
                   [&](const std::string& host) { return host == "eigsvc.example" ? known : Addresses(); });
}

TEST(ServersTest, ANamesAddressesAreServers) {
  for (const char* target :
       {"eigsvc.example:50151", "dns:///eigsvc.example:50151", "dns:eigsvc.example:50151"}) {
    EXPECT_EQ(NameOf(target), "eigsvc.example:50151");
    EXPECT_THAT(Of(target, {"10.0.0.2", "10.0.0.1"}),
                ElementsAre("ipv4:10.0.0.2:50151", "ipv4:10.0.0.1:50151"));
    EXPECT_THAT(Of(target, {"fd00::2", "fd00::1"}),
                ElementsAre("ipv6:[fd00::2]:50151", "ipv6:[fd00::1]:50151"));
    EXPECT_THAT(Of(target, {"fd00::2", "10.0.0.2", "fd00::1", "10.0.0.1"}), SizeIs(2))
        << "two of two families";
    EXPECT_THAT(Of(target, {"fd00::1", "10.0.0.1"}), ElementsAre(target)) << "one server of two families";
    EXPECT_THAT(Of(target, {"10.0.0.1"}), ElementsAre(target));
    EXPECT_THAT(Of(target, {}), ElementsAre(target));
  }
  EXPECT_THAT(Of("ipv4:10.0.0.1:1,10.0.0.2:2", {}), ElementsAre("ipv4:10.0.0.1:1", "ipv4:10.0.0.2:2"));
  for (const char* target :
       {"unix:/run/eigsvc.socket", "", "[::1]:50151", "dns://8.8.8.8/eigsvc.example:1", "eigsvc.example"})
    EXPECT_THAT(Of(target, {"10.0.0.2", "10.0.0.1"}), ElementsAre(target));
}

TEST(ServersTest, AreJoinedIntoOneTarget) {
  EXPECT_EQ(JoinServers({"ipv4:10.0.0.1:1", "ipv4:10.0.0.2:2"}), "ipv4:10.0.0.1:1,10.0.0.2:2");
  EXPECT_EQ(JoinServers({"ipv6:[fd00::1]:1", "ipv6:[fd00::2]:1"}), "ipv6:[fd00::1]:1,[fd00::2]:1");
  EXPECT_EQ(JoinServers({"unix:/run/eigsvc.socket"}), "unix:/run/eigsvc.socket");
}

class TwoServersTest : public ::testing::Test {
 protected:
  CliResult Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--server", absl::StrCat("ipv4:", a_.address(), ",", b_.address())});
    return RunCli(arguments);
  }
  FakeServer a_, b_;
  testing::TemporaryDirectory directory_;
};

TEST_F(TwoServersTest, ACommandStaysAtOneAndCommandsSpread) {
  const std::string checkpoint = directory_.Write("m.pt", "weights");
  const std::string exported = directory_.path() + "/eigenvalues.safetensors";
  size_t uploads = 0;
  for (int i = 0; i < 40; ++i) {
    const CliResult result =
        Run({"analyze", "--checkpoint", checkpoint, "--task", "mqar", "--export", exported});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    // Where the checkpoint went, the analysis ran: as many of one as of the other.
    EXPECT_EQ(a_.checkpoint_uploads().size(), a_.analyze_requests().size());
    EXPECT_EQ(b_.checkpoint_uploads().size(), b_.analyze_requests().size());
    EXPECT_EQ(a_.analyze_requests().size() + b_.analyze_requests().size(), ++uploads);
  }
  EXPECT_GT(a_.analyze_requests().size(), 0u);
  EXPECT_GT(b_.analyze_requests().size(), 0u);
}

TEST_F(TwoServersTest, JobsAreFoundWhereverTheyAre) {
  a_.unary_status = grpc::Status(grpc::StatusCode::NOT_FOUND, "no such job");
  for (int i = 0; i < 10; ++i) {
    const CliResult got = Run({"jobs", "get", "analysis-1"});
    EXPECT_EQ(got.exit_code, 0) << got.err;
    EXPECT_EQ(Run({"jobs", "cancel", "analysis-1"}).exit_code, 0);
  }
  EXPECT_THAT(a_.cancelled(), SizeIs(0));
  EXPECT_THAT(b_.cancelled(), SizeIs(10));
  EXPECT_EQ(Run({"jobs", "get", "nothing"}).exit_code, 69);
}

TEST_F(TwoServersTest, JobsOfAllAreListed) {
  const CliResult result = Run({"jobs", "list", "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(Json::parse(result.out)["jobs"].size(), 6u);
}

TEST_F(TwoServersTest, OneThatIsGoneHidesNoOthersJobs) {
  b_.unary_status = grpc::Status(grpc::StatusCode::UNAVAILABLE, "shutting down");
  const CliResult result = Run({"jobs", "list", "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(Json::parse(result.out)["jobs"].size(), 3u);
  EXPECT_THAT(result.err, HasSubstr("a server's jobs are missing: shutting down"));
  EXPECT_EQ(Run({"jobs", "get", "analysis-1"}).exit_code, 0);
  const CliResult unknown = Run({"jobs", "get", "nothing"});
  EXPECT_EQ(unknown.exit_code, 78) << "it may be at the one that did not answer";
  a_.unary_status = b_.unary_status;
  EXPECT_EQ(Run({"jobs", "list"}).exit_code, 78);
}

}  // namespace
}  // namespace eigsvc::cli
