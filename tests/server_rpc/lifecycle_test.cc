// Start, health, readiness, drain and end of the whole daemon.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "tests/server_rpc/daemon.h"

namespace eigsvc::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kServing = 1, kNotServing = 2;

// grpc.health.v1 by hand: a request is one string, an answer one enum.
grpc::ByteBuffer HealthRequest(const std::string& service) {
  const grpc::Slice slice(std::string("\x0A") + static_cast<char>(service.size()) + service);
  return grpc::ByteBuffer(&slice, 1);
}
char ServingStatus(const grpc::ByteBuffer& response) {
  grpc::Slice slice;
  if (!response.DumpToSingleSlice(&slice).ok() || slice.size() != 2) return 0;
  return static_cast<char>(slice.begin()[1]);
}

class LifecycleTest : public DaemonTest {
 protected:
  grpc::Status CheckHealth(const std::string& service, char* serving) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    const grpc::ByteBuffer request = HealthRequest(service);
    auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    void* tag;
    bool ok;
    queue.Next(&tag, &ok);
    *serving = status.ok() ? ServingStatus(response) : 0;
    return status;
  }
  bool AwaitHealth(char wanted) {
    for (const absl::Time until = absl::Now() + kLong; absl::Now() < until;
         absl::SleepFor(absl::Milliseconds(2))) {
      char serving = 0;
      if (CheckHealth("", &serving).ok() && serving == wanted) return true;
    }
    return false;
  }
  std::string HttpGet(const std::string& target) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(server_->http_port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    const std::string request = "GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    EXPECT_EQ(send(fd, request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
    std::string answer;
    char buffer[4096];
    for (ssize_t got; (got = recv(fd, buffer, sizeof(buffer), 0)) > 0;)
      answer.append(buffer, static_cast<size_t>(got));
    close(fd);
    return answer;
  }
};

TEST_F(LifecycleTest, ServesOnceAWorkerIsReady) {
  std::atomic<bool> up = false;
  script_.start = [&] { return up ? absl::OkStatus() : absl::UnavailableError("not yet"); };
  StartDaemon();
  char serving = 0;
  ASSERT_TRUE(CheckHealth("", &serving).ok());
  EXPECT_EQ(serving, kNotServing);
  EXPECT_THAT(HttpGet("/readyz"), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(HttpGet("/livez"), StartsWith("HTTP/1.1 200 "));
  up = true;
  EXPECT_TRUE(AwaitHealth(kServing));
  EXPECT_THAT(HttpGet("/readyz"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(HttpGet("/metrics"), HasSubstr("eigsvc_ready 1"));
  for (const char* service :
       {"eigsvc.v1.AnalysisService", "eigsvc.v1.CatalogService", "eigsvc.v1.TrainingService"}) {
    ASSERT_TRUE(CheckHealth(service, &serving).ok());
    EXPECT_EQ(serving, kServing);
  }
  EXPECT_THAT(CheckHealth("no.such.Service", &serving), IsStatus(grpc::NOT_FOUND, ::testing::_));
}

TEST_F(LifecycleTest, LivenessIsServedWhetherOrNotAWorkerIsReady) {
  script_.start = [] { return absl::UnavailableError("never"); };
  StartDaemon();
  char serving = 0;
  ASSERT_TRUE(CheckHealth("liveness", &serving).ok());
  EXPECT_EQ(serving, kServing);
  ASSERT_TRUE(CheckHealth("", &serving).ok());
  EXPECT_EQ(serving, kNotServing);
}

TEST_F(LifecycleTest, HealthWatchSeesTheDrainBeforeItEnds) {
  config_.lame_duck = absl::Milliseconds(300);
  StartDaemon();
  ASSERT_TRUE(AwaitHealth(kServing));
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto call = stub.PrepareCall(&context, "/grpc.health.v1.Health/Watch", &queue);
  void* tag;
  bool ok;
  call->StartCall(nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  call->WriteLast(HealthRequest("eigsvc.v1.AnalysisService"), grpc::WriteOptions(), nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::ByteBuffer response;
  call->Read(&response, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  EXPECT_EQ(ServingStatus(response), kServing);

  const absl::Time start = absl::Now();
  std::thread shutdown([&] { server_->Shutdown(); });
  call->Read(&response, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  EXPECT_EQ(ServingStatus(response), kNotServing);
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(250));
  // A lame duck still serves.
  EXPECT_THAT(HttpGet("/readyz"), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(HttpGet("/readyz"), HasSubstr("draining"));
  char live = 0;
  ASSERT_TRUE(CheckHealth("liveness", &live).ok());
  EXPECT_EQ(live, kServing);
  EXPECT_TRUE(Analyze(GoodRequest()).ok());
  shutdown.join();
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  queue.Next(&tag, &ok);
}

TEST_F(LifecycleTest, DrainLetsARunningJobFinishAndRefusesNewOnes) {
  std::atomic<bool> go = false;
  script_.analysis = [&](const auto&, FakeRun& run, const auto& on_event) -> absl::Status {
    on_event(ModelEvent());
    while (!go) {
      if (absl::Status status = run.Sleep(absl::Milliseconds(1)); !status.ok()) return status;
    }
    on_event(ResultEvent(10));
    return absl::OkStatus();
  };
  StartDaemon();
  grpc::ClientContext context;
  auto stream = analyses_->Analyze(&context, GoodRequest());
  v1::AnalyzeResponse response;
  while (stream->Read(&response) && !response.event().has_model()) {
  }
  std::thread shutdown([&] { server_->Shutdown(); });
  grpc::Status refused;
  for (int i = 0; i < 1000; ++i) {  // until admission has stopped
    refused = Analyze(GoodRequest());
    if (refused.error_code() == grpc::UNAVAILABLE) break;
  }
  EXPECT_THAT(refused, IsStatus(grpc::UNAVAILABLE, HasSubstr("shutting down")));
  go = true;
  EXPECT_TRUE(stream->Read(&response));
  EXPECT_TRUE(response.event().has_result());
  EXPECT_TRUE(stream->Finish().ok());
  shutdown.join();
}

TEST_F(LifecycleTest, DrainCancelsWhatDoesNotFinish) {
  config_.drain_timeout = absl::Milliseconds(200);
  RunUntilStopped();
  StartDaemon();
  grpc::ClientContext context;
  auto stream = analyses_->Analyze(&context, GoodRequest());
  v1::AnalyzeResponse response;
  while (stream->Read(&response) && !response.event().has_model()) {
  }
  const absl::Time start = absl::Now();
  std::thread shutdown([&] { server_->Shutdown(); });
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_THAT(stream->Finish(), IsStatus(grpc::UNAVAILABLE, HasSubstr("shut down")));
  shutdown.join();
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
}

TEST_F(LifecycleTest, SecondSignalEndsTheDrain) {
  config_.lame_duck = absl::Seconds(60);
  config_.drain_timeout = absl::Seconds(60);
  RunUntilStopped();
  StartDaemon();
  grpc::ClientContext context;
  auto stream = analyses_->Analyze(&context, GoodRequest());
  v1::AnalyzeResponse response;
  while (stream->Read(&response) && !response.event().has_model()) {
  }
  const absl::Time start = absl::Now();
  std::thread shutdown([&] { server_->Shutdown(); });
  absl::SleepFor(absl::Milliseconds(50));
  server_->Hurry();
  shutdown.join();
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
  EXPECT_THAT(stream->Finish(), IsStatus(grpc::UNAVAILABLE, ::testing::_));
}

TEST_F(LifecycleTest, TakenPortsAreErrorsThatNameThem) {
  StartDaemon();
  ServerConfig second = config_;
  second.state_dir = directory_ + "/second";
  second.listen = server_->address();
  ServerHooks hooks;
  hooks.launcher = script_.Launcher();
  EXPECT_THAT(Server::Start(second, hooks),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("cannot listen on " + server_->address())));
  second.listen = "127.0.0.1:0";
  second.http_listen = absl::StrCat("127.0.0.1:", server_->http_port());
  EXPECT_THAT(Server::Start(second, hooks), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("for HTTP")));
  second.state_dir = config_.state_dir;
  EXPECT_THAT(Server::Start(second, hooks),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("state directory")));
}

TEST_F(LifecycleTest, PrivateServerListensOnItsSocketAndReadsLocalPaths) {
  config_.private_server = true;
  config_.listen = "unix:" + directory_ + "/socket";
  StartDaemon();
  EXPECT_EQ(server_->http_port(), 0);
  EXPECT_EQ(server_->address(), config_.listen);
  v1::AnalyzeRequest request = GoodRequest();
  request.mutable_spec()->mutable_checkpoint()->set_local_path(directory_ + "/checkpoints/known.safetensors");
  const grpc::Status status = Analyze(request);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(LifecycleTest, ReflectionListsTheServices) {
  StartDaemon();
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto call =
      stub.PrepareCall(&context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  void* tag;
  bool ok;
  call->StartCall(nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  const grpc::Slice list_services(std::string("\x3A\x00", 2));  // list_services = 7: ""
  call->WriteLast(grpc::ByteBuffer(&list_services, 1), grpc::WriteOptions(), nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::ByteBuffer response;
  call->Read(&response, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::Slice slice;
  ASSERT_TRUE(response.DumpToSingleSlice(&slice).ok());
  const std::string text(reinterpret_cast<const char*>(slice.begin()), slice.size());
  EXPECT_THAT(text, HasSubstr("eigsvc.v1.AnalysisService"));
  EXPECT_THAT(text, HasSubstr("grpc.health.v1.Health"));
  grpc::Status status;
  call->Finish(&status, nullptr);
  queue.Next(&tag, &ok);
}

TEST_F(LifecycleTest, EveryRpcIsLoggedWithItsCode) {
  std::mutex mutex;
  std::vector<std::string> lines;
  ServerHooks hooks;
  hooks.launcher = script_.Launcher();
  hooks.on_rpc = [&](const RpcRecord& record) {
    const std::lock_guard lock(mutex);
    lines.push_back(absl::StrCat(record.method, " ", record.code));
  };
  EIGSVC_ASSERT_OK_AND_ASSIGN(server_, Server::Start(config_, hooks));
  channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
  analyses_ = v1::AnalysisService::NewStub(channel_);
  EXPECT_TRUE(Analyze(GoodRequest()).ok());
  v1::AnalyzeRequest bad = GoodRequest();
  bad.mutable_spec()->set_dtype("x");
  EXPECT_FALSE(Analyze(bad).ok());
  server_->Shutdown();
  const std::lock_guard lock(mutex);
  // In any order: a call is logged once its stream is gone, and the client may be at its next call by then.
  EXPECT_THAT(lines, ::testing::UnorderedElementsAre("AnalysisService.Analyze OK",
                                                     "AnalysisService.Analyze INVALID_ARGUMENT"));
}

}  // namespace
}  // namespace eigsvc::testing
