// WorkerTransport over gRPC and a Unix socket.
#pragma once

#include <memory>
#include <string>

#include "server/workers/worker.h"

namespace eigsvc {

// Connects when first used; until the socket is there every call is UNAVAILABLE at once.
std::unique_ptr<WorkerTransport> NewGrpcTransport(const std::string& socket_path);

}  // namespace eigsvc
