// How tensors reach the kernels of models/kernels, which take plain pointers.
#pragma once

#include <optional>
#include <string>

#include "ATen/core/Tensor.h"
#include "ATen/core/grad_mode.h"
#include "absl/status/status.h"
#include "c10/core/Device.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "c10/util/Exception.h"
#include "models/kernels/element.h"

namespace eigsvc {

inline std::optional<Element> ElementOf(c10::ScalarType type) {
  switch (type) {
    case c10::kFloat:
      return Element::kFloat32;
    case c10::kDouble:
      return Element::kFloat64;
    case c10::kHalf:
      return Element::kFloat16;
    case c10::kBFloat16:
      return Element::kBFloat16;
    default:
      return std::nullopt;
  }
}

// The calling thread's stream of a CUDA device, a cudaStream_t. REQUIRES a guard of the device around the
// launch.
inline void* KernelStream(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle();
}

// Whether a layer may run this by kernels that know no gradients and no float64.
inline bool LayerKernelsTake(const at::Tensor& x) {
#ifdef EIGSVC_CUDA_KERNELS
  return x.is_cuda() && !c10::GradMode::is_enabled() && x.numel() > 0 &&
         (x.scalar_type() == c10::kFloat || x.scalar_type() == c10::kHalf ||
          x.scalar_type() == c10::kBFloat16);
#else
  (void)x;
  return false;
#endif
}

// Throws what CallTorch makes RESOURCE_EXHAUSTED of where memory ran out, else INTERNAL, sticky where the
// device is beyond help. Sizes that a kernel refuses are to be looked at before.
inline void ThrowUnlessOk(const absl::Status& status) {
  TORCH_CHECK_WITH(OutOfMemoryError, !absl::IsResourceExhausted(status), std::string(status.message()));
  TORCH_CHECK(status.ok(), std::string(status.message()));
}

}  // namespace eigsvc
