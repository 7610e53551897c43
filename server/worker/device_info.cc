#include "server/worker/device_info.h"

#include <dlfcn.h>
#include <google/protobuf/stubs/common.h>
#include <grpcpp/grpcpp.h>

#include <fstream>

#include "ATen/Parallel.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "c10/core/impl/DeviceGuardImplInterface.h"
#include "models/base/host_memory.h"

namespace eigsvc {
namespace {

std::string CpuName() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    const size_t colon = line.find(':');
    if (absl::StartsWith(line, "model name") && colon != std::string::npos) {
      return std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
    }
  }
  return "CPU";
}

// Through the driver's C interface, looked up at run time: this program is built without CUDA headers and
// runs where there is no driver.
std::string CudaName(int index) {
  const std::string fallback = absl::StrCat("CUDA device ", index);
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY);
  if (driver == nullptr) return fallback;
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
  const auto name = reinterpret_cast<int (*)(char*, int, int)>(dlsym(driver, "cuDeviceGetName"));
  char text[128] = "";
  int handle = 0;
  const bool found = init != nullptr && get != nullptr && name != nullptr && init(0) == 0 &&
                     get(&handle, index) == 0 && name(text, sizeof(text), handle) == 0;
  dlclose(driver);
  return found ? text : fallback;
}

// As the driver counts it, other processes' share included. Through the device's primary context, which
// LibTorch holds already once a tensor is there.
DeviceMemory CudaMemory(int index) {
  DeviceMemory memory;
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY);
  if (driver == nullptr) return memory;
  const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
  const auto retain = reinterpret_cast<int (*)(void**, int)>(dlsym(driver, "cuDevicePrimaryCtxRetain"));
  const auto release = reinterpret_cast<int (*)(int)>(dlsym(driver, "cuDevicePrimaryCtxRelease_v2"));
  const auto push = reinterpret_cast<int (*)(void*)>(dlsym(driver, "cuCtxPushCurrent_v2"));
  const auto pop = reinterpret_cast<int (*)(void**)>(dlsym(driver, "cuCtxPopCurrent_v2"));
  const auto info = reinterpret_cast<int (*)(size_t*, size_t*)>(dlsym(driver, "cuMemGetInfo_v2"));
  const bool found = get != nullptr && retain != nullptr && release != nullptr && push != nullptr &&
                     pop != nullptr && info != nullptr;
  int handle = 0;
  void* context = nullptr;
  if (found && get(&handle, index) == 0 && retain(&context, handle) == 0) {
    size_t free_bytes = 0, total_bytes = 0;
    if (push(context) == 0) {
      if (info(&free_bytes, &total_bytes) == 0) {
        memory = {static_cast<int64_t>(total_bytes), static_cast<int64_t>(free_bytes)};
      }
      pop(&context);
    }
    release(handle);
  }
  dlclose(driver);
  return memory;
}

}  // namespace

std::vector<std::string> DeviceNames() {
  std::vector<std::string> names;
  if (c10::impl::hasDeviceGuardImpl(c10::kCUDA)) {
    const int count = c10::impl::getDeviceGuardImpl(c10::kCUDA)->deviceCount();
    for (int i = 0; i < count; ++i) names.push_back(absl::StrCat("cuda:", i));
  }
  if (names.empty()) names.push_back("cpu");
  return names;
}

std::string DescribeDevices(const std::vector<c10::Device>& devices) {
  return absl::StrJoin(devices, " + ", [](std::string* out, c10::Device device) {
    if (device.is_cuda()) {
      absl::StrAppend(out, CudaName(device.has_index() ? device.index() : 0));
    } else {
      const int threads = at::get_num_threads();
      absl::StrAppend(out, CpuName(), ", ", threads, threads == 1 ? " thread" : " threads");
    }
  });
}

DeviceMemory ReadDeviceMemory(const std::vector<c10::Device>& devices) {
  DeviceMemory all;
  for (const c10::Device device : devices) {
    if (device.is_cpu()) {
      const HostMemory host = ReadHostMemory();
      return {host.total_bytes, host.free_bytes};
    }
    const DeviceMemory memory = CudaMemory(device.has_index() ? device.index() : 0);
    all.total_bytes += memory.total_bytes;
    all.free_bytes += memory.free_bytes;
  }
  return all;
}

const std::map<std::string, std::string>& Versions() {
  static const auto* versions = new std::map<std::string, std::string>{
      {"eigsvc-worker", EIGSVC_VERSION},
      {"grpc", grpc::Version()},
      {"libtorch", EIGSVC_TORCH_VERSION},
      {"protobuf", google::protobuf::internal::VersionString(GOOGLE_PROTOBUF_VERSION)},
  };
  return *versions;
}

}  // namespace eigsvc
