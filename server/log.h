// The daemon's log on stderr: one JSON object a line, or text for people. Every room logs through spdlog's
// default logger, which InitLog sets up; only main calls it.
#pragma once

#include <string>

#include "server/config/config.h"
#include "server/rpc/rpc_server.h"

namespace eigsvc {

// `log_format` "auto" is JSON unless stderr is a terminal.
void InitLog(const ServerConfig& config);

// The access log: one line an RPC, with method, code, duration and peer as fields of their own.
void LogRpc(const RpcRecord& record);

}  // namespace eigsvc
