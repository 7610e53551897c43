#include "client/cli/servers.h"

#include <netdb.h>
#include <sys/socket.h>

#include <array>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace eigsvc::cli {
namespace {

constexpr std::array<absl::string_view, 2> kAddressSchemes = {"ipv4:", "ipv6:"};

}  // namespace

std::string NameOf(const std::string& target) {
  absl::string_view name = target;
  if (!absl::ConsumePrefix(&name, "dns:///")) absl::ConsumePrefix(&name, "dns:");
  return std::string(name);
}

std::vector<std::string> AddressesOf(const std::string& host) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return {};
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  std::vector<std::string> addresses;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    char text[NI_MAXHOST];
    if (getnameinfo(info->ai_addr, info->ai_addrlen, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) == 0)
      addresses.emplace_back(text);
  }
  return addresses;
}

std::vector<std::string> ServersOf(
    const std::string& target,
    const std::function<std::vector<std::string>(const std::string& host)>& addresses_of) {
  for (const absl::string_view scheme : kAddressSchemes) {
    if (!absl::StartsWith(target, scheme)) continue;
    std::vector<std::string> servers;
    for (const absl::string_view address :
         absl::StrSplit(absl::StripPrefix(target, scheme), ',', absl::SkipEmpty()))
      servers.push_back(absl::StrCat(scheme, address));
    return servers;
  }
  const std::string owned = NameOf(target);
  const absl::string_view name = owned;
  const size_t colon = name.rfind(':');
  // Another scheme (unix:, dns://AUTHORITY/), an address in brackets, or no port.
  if (colon == name.npos || absl::StrContains(name, "/") || absl::StrContains(name.substr(0, colon), ":"))
    return {target};
  const absl::string_view host = name.substr(0, colon), port = name.substr(colon + 1);
  std::vector<std::string> v4, v6;
  for (const std::string& address : addresses_of(std::string(host))) {
    if (absl::StrContains(address, ":")) {
      v6.push_back(absl::StrCat("ipv6:[", address, "]:", port));
    } else {
      v4.push_back(absl::StrCat("ipv4:", address, ":", port));
    }
  }
  if (v4.size() > 1) return v4;
  if (v6.size() > 1) return v6;
  return {target};
}

std::string JoinServers(const std::vector<std::string>& servers) {
  if (servers.size() == 1) return servers.front();
  const size_t scheme = servers.front().find(':') + 1;
  return absl::StrCat(servers.front().substr(0, scheme),
                      absl::StrJoin(servers, ",", [&](std::string* out, const std::string& server) {
                        out->append(server, scheme);
                      }));
}

}  // namespace eigsvc::cli
