// The HTTP server over plain sockets: what it answers, and what a bad client cannot do to it.
#include "server/http/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::StatusIs;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class Client {
 public:
  explicit Client(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~Client() { close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool connected() const { return connected_; }
  bool Send(const std::string& text) {
    return send(fd_, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
  }
  // What comes until the server closes or `quiet` passes without a byte.
  std::string Receive(absl::Duration quiet = absl::Seconds(10)) {
    std::string all;
    while (true) {
      pollfd ready = {fd_, POLLIN, 0};
      if (poll(&ready, 1, static_cast<int>(absl::ToInt64Milliseconds(quiet))) != 1) return all + "<quiet>";
      char buffer[4096];
      const ssize_t got = recv(fd_, buffer, sizeof(buffer), 0);
      if (got <= 0) return all;
      all.append(buffer, static_cast<size_t>(got));
    }
  }

 private:
  const int fd_;
  bool connected_ = false;
};

class HttpServerTest : public ::testing::Test {
 protected:
  void Start() {
    HttpHandlers handlers;
    handlers.metrics = [](absl::string_view accept) {
      return HttpHandlers::Text{
          accept.empty() ? "text/plain; version=0.0.4; charset=utf-8" : std::string(accept),
          "eigsvc_ready 1\n"};
    };
    handlers.not_ready_reason = [this] { return ready_ ? std::string() : std::string("no worker is ready"); };
    handlers.v1 = [this](absl::string_view target) -> absl::StatusOr<HttpHandlers::Text> {
      if (target == "/v1/slow") {
        if (!slow_begun_.HasBeenNotified()) slow_begun_.Notify();
        go_.WaitForNotificationWithTimeout(absl::Seconds(20));
      }
      if (target == "/v1/bad") return absl::InvalidArgumentError("bad layer");
      if (target == "/v1/none") return absl::NotFoundError("no analysis");
      if (target == "/v1/early") return absl::FailedPreconditionError("it still runs");
      if (target == "/v1/broken") return absl::InternalError("report it");
      return HttpHandlers::Text{"image/png", absl::StrCat("picture of ", target)};
    };
    EIGSVC_ASSERT_OK_AND_ASSIGN(server_, HttpServer::Start(options_, handlers));
    ASSERT_GT(server_->port(), 0);
  }
  std::string Ask(const std::string& request) {
    Client client(server_->port());
    EXPECT_TRUE(client.Send(request));
    return client.Receive();
  }
  static std::string Get(const std::string& target, const std::string& method = "GET") {
    return absl::StrCat(method, " ", target, " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  }

  absl::Notification slow_begun_, go_;  // of a picture that takes long
  std::atomic<bool> ready_ = true;
  HttpOptions options_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, MetricsHaveThePrometheusContentType) {
  Start();
  const std::string answer = Ask(Get("/metrics"));
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(answer, HasSubstr("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\neigsvc_ready 1\n"));
  EXPECT_THAT(Ask(Get("/metrics?name=x")), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpServerTest, MetricsAreToldWhatTheClientAccepts) {
  Start();
  const std::string answer =
      Ask("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(answer, HasSubstr("Content-Type: application/x\r\n"));
  EXPECT_THAT(answer, HasSubstr("Vary: Accept\r\n"));
}

TEST_F(HttpServerTest, ReadinessHasAReasonAndLivenessDoesNotFollowIt) {
  Start();
  EXPECT_THAT(Ask(Get("/readyz")), StartsWith("HTTP/1.1 200 "));
  ready_ = false;
  const std::string answer = Ask(Get("/readyz"));
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(answer, EndsWith("no worker is ready\n"));
  EXPECT_THAT(Ask(Get("/livez")), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpServerTest, WhatIsUnderV1ComesWithItsTypeAndItsErrors) {
  Start();
  const auto get = [&](const std::string& target) {
    return Ask(absl::StrCat("GET ", target, " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
  };
  const std::string picture = get("/v1/analyses/an-1/plane.png?view=plane");
  EXPECT_THAT(picture, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(picture, HasSubstr("Content-Type: image/png\r\n"));
  EXPECT_THAT(picture, HasSubstr("X-Content-Type-Options: nosniff\r\n"));
  EXPECT_THAT(picture, EndsWith("\r\n\r\npicture of /v1/analyses/an-1/plane.png?view=plane"));
  EXPECT_THAT(get("/v1/bad"), AllOf(StartsWith("HTTP/1.1 400"), EndsWith("bad layer\n")));
  EXPECT_THAT(get("/v1/none"), AllOf(StartsWith("HTTP/1.1 404"), EndsWith("no analysis\n")));
  EXPECT_THAT(get("/v1/early"), AllOf(StartsWith("HTTP/1.1 409"), EndsWith("it still runs\n")));
  EXPECT_THAT(get("/v1/broken"), AllOf(StartsWith("HTTP/1.1 500"), EndsWith("report it\n")));
  EXPECT_THAT(Ask("POST /v1/bad HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
              StartsWith("HTTP/1.1 405"));
}

TEST_F(HttpServerTest, HeadHasTheLengthAndNoBody) {
  Start();
  const std::string answer = Ask(Get("/metrics", "HEAD"));
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(answer, HasSubstr("Content-Length: 15\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\n"));
}

TEST_F(HttpServerTest, OtherRequestsAreRefusedByName) {
  Start();
  EXPECT_THAT(Ask(Get("/")), AllOf(StartsWith("HTTP/1.1 404 "),
                                   EndsWith("not found; there are /metrics, /livez, /readyz and /v1/\n")));
  EXPECT_THAT(Ask(Get("/metrics/../etc/passwd")), StartsWith("HTTP/1.1 404 "));
  const std::string refused = Ask(Get("/metrics", "DELETE"));
  EXPECT_THAT(refused, StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(refused, HasSubstr("Allow: GET, HEAD\r\n"));
  EXPECT_THAT(Ask("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"),
              StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(Ask("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"),
              StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(
      Ask("POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
      StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(Ask("GET /livez HTTP/1.1\r\nHost: x\r\nA: " + std::string(9000, 'a') + "\r\n\r\n"),
              StartsWith("HTTP/1.1 431 "));
  EXPECT_THAT(Ask("\x16\x03\x01 not HTTP at all\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
}

TEST_F(HttpServerTest, OneConnectionServesManyRequests) {
  Start();
  Client client(server_->port());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.Send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"));
    EXPECT_THAT(client.Receive(absl::Milliseconds(200)), EndsWith("ok\n<quiet>"));
  }
}

TEST_F(HttpServerTest, SlowRequestIsCutOffThoughBytesKeepComing) {
  options_.timeout = absl::Milliseconds(300);
  Start();
  Client client(server_->port());
  ASSERT_TRUE(client.Send("GET /livez HTTP/1.1\r\n"));
  const absl::Time start = absl::Now();
  while (client.Send("X") && absl::Now() - start < absl::Seconds(10)) absl::SleepFor(absl::Milliseconds(50));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_THAT(Ask(Get("/livez")), StartsWith("HTTP/1.1 200 "));
}

// What takes long is drawn beside probes and scrapes, and only so much of it.
TEST_F(HttpServerTest, PicturesKeepNobodyWaitingAndAreCapped) {
  options_.max_pictures = 3;
  Start();
  std::vector<std::unique_ptr<Client>> drawn;
  for (int i = 0; i < 3; ++i) {
    drawn.push_back(std::make_unique<Client>(server_->port()));
    ASSERT_TRUE(drawn.back()->Send(Get("/v1/slow")));
  }
  ASSERT_TRUE(slow_begun_.WaitForNotificationWithTimeout(absl::Seconds(10)));
  absl::SleepFor(absl::Milliseconds(50));  // the others are read, too
  const absl::Time start = absl::Now();
  Client probe(server_->port());
  ASSERT_TRUE(probe.Send(Get("/livez")));
  EXPECT_THAT(probe.Receive(absl::Seconds(2)), StartsWith("HTTP/1.1 200 "));
  Client scrape(server_->port());
  ASSERT_TRUE(scrape.Send(Get("/metrics")));
  EXPECT_THAT(scrape.Receive(absl::Seconds(2)), StartsWith("HTTP/1.1 200 "));
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  Client beyond(server_->port());
  ASSERT_TRUE(beyond.Send(Get("/v1/slow")));
  EXPECT_THAT(beyond.Receive(absl::Seconds(2)),
              AllOf(StartsWith("HTTP/1.1 503 "), HasSubstr("Retry-After: 1\r\n")));
  go_.Notify();
  for (const auto& client : drawn) EXPECT_THAT(client->Receive(), EndsWith("picture of /v1/slow"));
  EXPECT_THAT(Ask(Get("/v1/slow")), StartsWith("HTTP/1.1 200 "));  // there is room again
}

TEST_F(HttpServerTest, EndsWhilePicturesAreDrawn) {
  Start();
  Client first(server_->port()), second(server_->port());
  ASSERT_TRUE(first.Send(Get("/v1/slow")) && second.Send(Get("/v1/slow")));
  ASSERT_TRUE(slow_begun_.WaitForNotificationWithTimeout(absl::Seconds(10)));
  std::thread release([this] {
    absl::SleepFor(absl::Milliseconds(100));
    go_.Notify();
  });
  server_.reset();
  release.join();
  EXPECT_THAT(first.Receive(), Not(HasSubstr("<quiet>")));
}

TEST_F(HttpServerTest, IdleConnectionsMakeRoomTheOldestFirst) {
  options_.max_connections = 4;
  options_.timeout = absl::Seconds(30);
  Start();
  std::vector<std::unique_ptr<Client>> held;
  for (int i = 0; i < 4; ++i) {
    held.push_back(std::make_unique<Client>(server_->port()));
    ASSERT_TRUE(held.back()->Send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"));
    ASSERT_THAT(held.back()->Receive(absl::Milliseconds(500)), HasSubstr("200"));
  }
  // The third was heard of last before the first and the second, which have asked again since.
  for (const int again : {0, 1, 3}) {
    ASSERT_TRUE(held[again]->Send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"));
    ASSERT_THAT(held[again]->Receive(absl::Milliseconds(500)), HasSubstr("200"));
  }
  EXPECT_THAT(Ask(Get("/metrics")), StartsWith("HTTP/1.1 200 "));
  EXPECT_EQ(held[2]->Receive(absl::Seconds(5)), "");  // closed
  for (const int kept : {0, 1, 3}) {
    ASSERT_TRUE(held[kept]->Send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"));
    EXPECT_THAT(held[kept]->Receive(absl::Milliseconds(500)), HasSubstr("200"));
  }
}

// Sockets that say nothing, or half a request, keep no scrape and no probe out.
TEST_F(HttpServerTest, SilentSocketsStarveNobody) {
  options_.timeout = absl::Seconds(30);
  Start();
  std::vector<std::unique_ptr<Client>> silent;
  for (int i = 0; i < 3 * options_.max_connections; ++i) {
    silent.push_back(std::make_unique<Client>(server_->port()));
    if (i % 2 == 0) silent.back()->Send("GET /met");
  }
  for (int i = 0; i < 10; ++i) {
    EXPECT_THAT(Ask(Get("/metrics")), StartsWith("HTTP/1.1 200 "));
    EXPECT_THAT(Ask(Get("/livez")), StartsWith("HTTP/1.1 200 "));
  }
}

TEST_F(HttpServerTest, WhereAllAreDrawnForANewConnectionIsClosed) {
  options_.max_connections = 2;
  Start();
  Client first(server_->port()), second(server_->port());
  ASSERT_TRUE(first.Send(Get("/v1/slow")) && second.Send(Get("/v1/slow")));
  ASSERT_TRUE(slow_begun_.WaitForNotificationWithTimeout(absl::Seconds(10)));
  absl::SleepFor(absl::Milliseconds(50));
  Client beyond(server_->port());
  EXPECT_EQ(beyond.Receive(absl::Seconds(5)), "");
  go_.Notify();
  EXPECT_THAT(first.Receive(), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(second.Receive(), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpServerTest, TakenPortIsAnErrorThatNamesIt) {
  Start();
  options_.listen = absl::StrCat("127.0.0.1:", server_->port());
  EXPECT_THAT(HttpServer::Start(options_, {}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("Address already in use")));
  options_.listen = "nonsense";
  EXPECT_THAT(HttpServer::Start(options_, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("nonsense")));
  options_.listen = "127.0.0.1:99999";
  EXPECT_THAT(HttpServer::Start(options_, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("99999")));
}

TEST_F(HttpServerTest, EndsWithConnectionsOpen) {
  Start();
  Client idle(server_->port()), halfway(server_->port());
  ASSERT_TRUE(halfway.Send("GET /met"));
  const absl::Time start = absl::Now();
  server_.reset();
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  EXPECT_THAT(idle.Receive(), Not(HasSubstr("<quiet>")));
}

}  // namespace
}  // namespace eigsvc
