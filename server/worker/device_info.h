// What this process runs on and what it was built from, in words. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "c10/core/Device.h"

namespace eigsvc {

// Every CUDA device as "cuda:N", or "cpu" alone where there is none: what `--list-devices` prints.
std::vector<std::string> DeviceNames();

// "AMD EPYC 7B13, 2 threads", "NVIDIA H100 80GB HBM3"; of several, joined by " + ".
std::string DescribeDevices(const std::vector<c10::Device>& devices);

// Of CUDA devices, all together; for the CPU what this process may use (host_memory.h). Zeros where it cannot
// be told.
struct DeviceMemory {
  int64_t total_bytes = 0, free_bytes = 0;
};
DeviceMemory ReadDeviceMemory(const std::vector<c10::Device>& devices);

// Versions by name: "eigsvc-worker", "libtorch", "grpc", "protobuf". They travel with every result.
const std::map<std::string, std::string>& Versions();

}  // namespace eigsvc
