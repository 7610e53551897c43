// CallTorch: the one place where LibTorch's exceptions become absl::Status.
#pragma once

#include <type_traits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

// Runs `body`. c10::OutOfMemoryError (and std::bad_alloc, and the CPU allocator's "not enough memory")
// becomes RESOURCE_EXHAUSTED; a sticky CUDA error ("CUDA error:") becomes INTERNAL with the payload
// kStickyCudaErrorUrl, after which the process must end; any other exception becomes INTERNAL with its first
// line. `what` is put before it. An absl::Status that the body returns passes through.
absl::Status CallTorchStatus(absl::string_view what, absl::FunctionRef<absl::Status()> body);
inline constexpr absl::string_view kStickyCudaErrorUrl = "eigsvc/sticky-cuda-error";

template <typename T>
struct AsStatusOr {
  using Type = absl::StatusOr<T>;
};
template <typename T>
struct AsStatusOr<absl::StatusOr<T>> {
  using Type = absl::StatusOr<T>;
};

// CallTorch("layer 3", [&]() -> absl::StatusOr<at::Tensor> {...}) or a body that returns the plain value.
template <typename Body>
auto CallTorch(absl::string_view what, Body&& body) {
  using Returned = std::invoke_result_t<Body>;
  if constexpr (std::is_same_v<Returned, absl::Status>) {
    return CallTorchStatus(what, body);
  } else {
    using Result = typename AsStatusOr<Returned>::Type;
    Result result = absl::UnknownError("not run");
    absl::Status status = CallTorchStatus(what, [&] {
      result = body();
      return result.ok() ? absl::OkStatus() : result.status();
    });
    if (!status.ok()) result = std::move(status);
    return result;
  }
}

}  // namespace eigsvc
