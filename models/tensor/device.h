// Devices and element types by name, as users write them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "c10/core/Device.h"
#include "c10/core/ScalarType.h"

namespace eigsvc {

// "cpu", "cuda", "cuda:1". FAILED_PRECONDITION when this LibTorch or machine has no such device.
absl::StatusOr<c10::Device> ParseDevice(absl::string_view name);
// One device, or several that work together, each named once: "cuda:0+cuda:1". Errors as ParseDevice.
absl::StatusOr<std::vector<c10::Device>> ParseDevices(absl::string_view names);
// No TF32 on CUDA devices from here on, which convolutions and recurrent networks of cuDNN take by default
// for float32: ten bits of a product are no float32. For the process; before a device is used.
void RequireFullFloat32();
// "float32", "float64", "bfloat16", "float16". INVALID_ARGUMENT otherwise, listing the known ones.
absl::StatusOr<c10::ScalarType> ParseDtype(absl::string_view name);
std::string DtypeName(c10::ScalarType type);

}  // namespace eigsvc
