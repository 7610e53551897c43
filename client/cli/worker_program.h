// What eigsvc-worker says of a checkpoint when it is run as a program of its own, without a daemon.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "eigsvc/v1/checkpoint.pb.h"

namespace eigsvc::cli {

// `environment_value` of EIGSVC_WORKER, else the eigsvc-worker beside this program.
std::string WorkerBinary(const std::string& environment_value);

// Runs `binary` with `arguments` ("inspect", ...) and reads what it prints. Errors with the worker's own
// status code and message; CANCELLED on an interrupt; LocalError when it cannot be run.
absl::StatusOr<v1::CheckpointInspection> InspectWithWorker(const std::string& binary,
                                                           const std::vector<std::string>& arguments);

}  // namespace eigsvc::cli
