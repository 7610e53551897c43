#include "server/config/address.h"

#include <arpa/inet.h>
#include <sys/un.h>

#include <algorithm>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace eigsvc {
namespace {

// A name other than "localhost" may resolve to anything, so it counts as remote.
bool IsLoopback(const std::string& host) {
  if (host == "localhost") return true;
  if (in_addr v4{}; inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

bool IsHost(const std::string& host, bool bracketed) {
  if (in6_addr v6{}; bracketed) return inet_pton(AF_INET6, host.c_str(), &v6) == 1;
  return !host.empty() && host.size() <= 253 && std::all_of(host.begin(), host.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-';
  });
}

}  // namespace

absl::Status CheckListenAddress(absl::string_view address, bool unix_socket, bool allow_remote) {
  const std::string shown = absl::StrCat("\"", absl::CHexEscape(address.substr(0, 200)), "\"");
  if (absl::string_view path = address; absl::ConsumePrefix(&path, "unix:") && unix_socket) {
    if (!absl::StartsWith(path, "/")) {
      return absl::InvalidArgumentError(
          absl::StrCat(shown, " needs an absolute path: unix:/run/eigsvc.sock"));
    }
    if (path.size() >= sizeof(sockaddr_un::sun_path)) {
      return absl::InvalidArgumentError(
          absl::StrCat(shown, " is longer than the ", sizeof(sockaddr_un::sun_path) - 1,
                       " bytes that a Unix socket's path may take; choose a shorter one"));
    }
    return absl::OkStatus();
  }
  const size_t colon = address.rfind(':');
  std::string host(address.substr(0, colon == absl::string_view::npos ? 0 : colon));
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  const absl::string_view digits = colon == absl::string_view::npos ? "" : address.substr(colon + 1);
  int port = -1;
  if (!IsHost(host, bracketed) || digits.empty() || !absl::ascii_isdigit(digits.front()) ||
      !absl::SimpleAtoi(digits, &port) || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat(shown, " is no address; give HOST:PORT with a port from 0 to 65535",
                     unix_socket ? " or unix:/path" : ""));
  }
  if (!allow_remote && !IsLoopback(host)) {
    return absl::InvalidArgumentError(absl::StrCat(
        shown,
        " is reachable from other machines, and there is no authentication yet; listen on 127.0.0.1, or add "
        "--allow-remote where the network protects the port"));
  }
  return absl::OkStatus();
}

}  // namespace eigsvc
