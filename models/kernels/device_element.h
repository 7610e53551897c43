// For CUDA sources: element types on the device, and several of them at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "models/kernels/element.h"

namespace eigsvc::kernels {

__device__ __forceinline__ float Wide(float x) { return x; }
__device__ __forceinline__ double Wide(double x) { return x; }
__device__ __forceinline__ float Wide(__half x) { return __half2float(x); }
__device__ __forceinline__ float Wide(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T Narrow(float x);
template <>
__device__ __forceinline__ float Narrow<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half Narrow<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 Narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// kSize elements that are read and written at once.
template <typename T, int kSize>
struct alignas(sizeof(T) * kSize) Pack {
  T values[kSize];
  __device__ static Pack Load(const T* from) { return *reinterpret_cast<const Pack*>(from); }
  __device__ void Store(T* to) const { *reinterpret_cast<Pack*>(to) = *this; }
};

// body(T()) with the device's type of `element`, one of float32, float16 and bfloat16. INVALID_ARGUMENT
// for another one.
template <typename Body>
absl::Status WithElement(Element element, const Body& body) {
  switch (element) {
    case Element::kFloat32:
      return body(float());
    case Element::kFloat16:
      return body(__half());
    case Element::kBFloat16:
      return body(__nv_bfloat16());
    case Element::kFloat64:
      break;
  }
  return absl::InvalidArgumentError("this kernel takes no float64");
}

inline absl::Status LaunchStatus(absl::string_view what) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": CUDA error: ", cudaGetErrorString(error)));
}

}  // namespace eigsvc::kernels
