// The servers behind one name.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace eigsvc::cli {

// "HOST:PORT" of a target that names a host, with or without "dns:".
std::string NameOf(const std::string& target);

// Numeric addresses of a host, IPv4 and IPv6; empty where DNS knows none. May take seconds.
std::vector<std::string> AddressesOf(const std::string& host);

// Every server that `target` leads to, as gRPC targets of one address each: of a list ("ipv4:A,B"), or of a
// name with several addresses of one family (a headless service). `target` itself where it leads to one
// server, to one address a family (localhost), or nowhere: gRPC then says what is wrong. `addresses_of` is
// asked for names.
std::vector<std::string> ServersOf(
    const std::string& target,
    const std::function<std::vector<std::string>(const std::string& host)>& addresses_of = AddressesOf);

// One gRPC target for all of `servers`, which are of one scheme: tried in this order.
std::string JoinServers(const std::vector<std::string>& servers);

}  // namespace eigsvc::cli
