#include "models/tensor/device.h"

#include <algorithm>
#include <cstdint>

#include "ATen/Context.h"
#include "ATen/detail/CUDAHooksInterface.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "models/base/status_macros.h"

namespace eigsvc {

absl::StatusOr<c10::Device> ParseDevice(absl::string_view name) {
  if (name == "cpu") return c10::Device(c10::kCPU);
  absl::string_view rest = name;
  int32_t index = 0;
  const bool is_cuda = absl::ConsumePrefix(&rest, "cuda") &&
                       (rest.empty() || (absl::ConsumePrefix(&rest, ":") && absl::SimpleAtoi(rest, &index) &&
                                         index >= 0 && index <= INT8_MAX));
  if (!is_cuda) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown device \"", name, "\"; known: cpu, cuda, cuda:N"));
  }
  const at::CUDAHooksInterface& cuda = at::detail::getCUDAHooks();
  if (!cuda.hasCUDA()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "device \"", name, "\": this build of LibTorch or this machine has no CUDA device; use \"cpu\""));
  }
  const int count = cuda.getNumGPUs();
  if (index >= count) {
    return absl::FailedPreconditionError(
        absl::StrCat("device \"", name, "\": this machine has ", count, " CUDA device(s), numbered from 0"));
  }
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

absl::StatusOr<std::vector<c10::Device>> ParseDevices(absl::string_view names) {
  std::vector<c10::Device> devices;
  for (const absl::string_view name : absl::StrSplit(names, '+')) {
    EIGSVC_ASSIGN_OR_RETURN(const c10::Device device, ParseDevice(name));
    if (std::find(devices.begin(), devices.end(), device) != devices.end()) {
      return absl::InvalidArgumentError(absl::StrCat("devices \"", names, "\" name one twice"));
    }
    devices.push_back(device);
  }
  return devices;
}

void RequireFullFloat32() {
  at::globalContext().setAllowTF32CuDNN(false);
  at::globalContext().setAllowTF32CuBLAS(false);
}

absl::StatusOr<c10::ScalarType> ParseDtype(absl::string_view name) {
  for (const c10::ScalarType type : {c10::kFloat, c10::kDouble, c10::kBFloat16, c10::kHalf}) {
    if (name == DtypeName(type)) return type;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown dtype \"", name, "\"; known: float32, float64, bfloat16, float16"));
}

std::string DtypeName(c10::ScalarType type) {
  switch (type) {
    case c10::kFloat:
      return "float32";
    case c10::kDouble:
      return "float64";
    case c10::kBFloat16:
      return "bfloat16";
    case c10::kHalf:
      return "float16";
    default:
      return c10::toString(type);
  }
}

}  // namespace eigsvc
