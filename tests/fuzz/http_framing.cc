// Any bytes as what a peer sends to the HTTP port: the server answers in HTTP or closes the connection, and
// is there for the next one. Each input is a connection over the loopback.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/http/http_server.h"
#include "server/plane/plane_target.h"

namespace eigsvc {
namespace {

int Port() {
  static const auto* const server = [] {
    HttpHandlers handlers;
    handlers.metrics = [](absl::string_view accept) {
      return HttpHandlers::Text{"text/plain", std::string(accept)};
    };
    handlers.not_ready_reason = [] { return std::string(); };
    handlers.v1 = [](absl::string_view target) -> absl::StatusOr<HttpHandlers::Text> {
      const absl::StatusOr<PlaneTarget> plane = ParsePlaneTarget(target);
      if (!plane.ok()) return plane.status();
      return HttpHandlers::Text{"text/plain", plane->id};
    };
    auto started = HttpServer::Start({.timeout = absl::Milliseconds(500)}, std::move(handlers));
    if (!started.ok()) std::abort();
    return started->release();
  }();
  return server->port();
}

std::string Exchange(const uint8_t* data, size_t size) {
  const int peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(Port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(peer, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    close(peer);  // out of ports, which inputs before it still hold
    return "";
  }
  for (size_t sent = 0; sent < size;) {
    const ssize_t count = send(peer, data + sent, size - sent, MSG_NOSIGNAL);
    if (count <= 0) break;  // it has heard enough
    sent += static_cast<size_t>(count);
  }
  shutdown(peer, SHUT_WR);
  std::string answer;
  char buffer[4096];
  for (ssize_t count; (count = recv(peer, buffer, sizeof buffer, 0)) > 0;)
    answer.append(buffer, static_cast<size_t>(count));
  close(peer);
  return answer;
}

}  // namespace
}  // namespace eigsvc

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string answer = eigsvc::Exchange(data, size);
  if (!answer.empty() && !absl::StartsWith(answer, "HTTP/1.")) std::abort();
  return 0;
}
