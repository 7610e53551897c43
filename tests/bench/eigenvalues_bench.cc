// Batched eigenvalues of dense matrices of N(0, 1/n).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "ATen/Parallel.h"
#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/linalg_eigvals.h"
#include "ATen/ops/randn.h"
#include "absl/strings/str_cat.h"
#include "c10/core/ScalarType.h"
#include "models/kernels/batched_eigenvalues.h"
#ifdef EIGSVC_CUDA_KERNELS
#include "models/kernels/cuda_dispatch.h"
#endif
#include "tests/bench/race.h"

namespace eigsvc::bench {
namespace {

struct Buffers {
  at::Tensor matrices, real, imaginary, outcomes;
  template <typename T>
  EigenProblem<T> Problem(int64_t first, int64_t length) const {
    const int64_t order = matrices.size(1);
    return {matrices.const_data_ptr<T>() + first * order * order,
            length,
            static_cast<int>(order),
            real.mutable_data_ptr<T>() + first * order,
            imaginary.mutable_data_ptr<T>() + first * order,
            reinterpret_cast<EigenOutcome*>(outcomes.mutable_data_ptr<int32_t>()) + first};
  }
};

Buffers MakeBuffers(int64_t count, int64_t order, at::ScalarType type, const c10::Device& device) {
  Buffers buffers;
  const auto options = at::TensorOptions().dtype(type).device(device);
  buffers.matrices = at::randn({count, order, order}, options) / std::sqrt(static_cast<double>(order));
  buffers.real = at::empty({count, order}, options);
  buffers.imaginary = at::empty_like(buffers.real);
  buffers.outcomes = at::empty({count}, options.dtype(at::kInt));
  return buffers;
}

#ifdef EIGSVC_CUDA_KERNELS
template <typename T>
void RaceOnDevice(const std::string& name, int64_t order,
                  absl::Status (*solve)(const EigenProblem<T>&, void*)) {
  Race(name, [=] {
    const int64_t count = std::min<int64_t>(1 << 20, (int64_t{1} << 28) / (order * order));
    const Buffers buffers =
        MakeBuffers(count, order, c10::CppTypeToScalarType<T>::value, c10::Device(c10::kCUDA, 0));
    return Work{static_cast<double>(count),
                [=] { Check(solve(buffers.Problem<T>(0, count), CurrentStream())); }};
  });
}

// About where the one form takes over from the other.
template <typename T>
void RegisterForms(const char* type_name) {
  if (!HasCuda()) return;
  for (const int64_t order : {32, 48, 64, 80, 96, 128}) {
    const std::string row = absl::StrCat("eigenvalues two forms ", type_name, "/", order, "/");
    RaceOnDevice<T>(row + "warps", order, kernels::EigenvaluesByWarps<T>);
    RaceOnDevice<T>(row + "blocks", order, kernels::EigenvaluesByBlocks<T>);
  }
}
#endif

template <typename T>
void Register(const char* type_name, int64_t order) {
  const at::ScalarType type = c10::CppTypeToScalarType<T>::value;
  const std::string row = absl::StrCat("eigenvalues ", type_name, "/", order, "/");
  // Several packs a thread for ours; a fraction of it for LAPACK, at its rate.
  const int64_t host_count = 64 * at::get_num_threads() * (order <= 32 ? 8 : 2);
  const int64_t lapack_count = std::max<int64_t>(host_count / 8, at::get_num_threads());
  Race(row + "ours_host", [=] {
    const Buffers buffers = MakeBuffers(host_count, order, type, c10::kCPU);
    return Work{static_cast<double>(host_count), [=] {
                  InParallel(host_count, 64, [&](int64_t begin, int64_t end) {
                    Check(EigenvaluesOnCpu(buffers.Problem<T>(begin, end - begin)));
                  });
                }};
  });
  Race(row + "LAPACK", [=] {  // a matrix a call, dealt over the same threads
    const at::Tensor matrices = MakeBuffers(lapack_count, order, type, c10::kCPU).matrices;
    return Work{static_cast<double>(lapack_count), [=] {
                  InParallel(lapack_count, 4, [&](int64_t begin, int64_t end) {
                    at::linalg_eigvals(matrices.narrow(0, begin, end - begin));
                  });
                }};
  });
#ifdef EIGSVC_CUDA_KERNELS
  if (!HasCuda()) return;
  const c10::Device device(c10::kCUDA, 0);
  RaceOnDevice<T>(row + "ours_device", order, EigenvaluesOnCuda<T>);
  Race(row + "cuSOLVER", [=] {  // takes one matrix at a time
    constexpr int64_t kFew = 64;
    const at::Tensor matrices = MakeBuffers(kFew, order, type, device).matrices;
    return Work{static_cast<double>(kFew), [=] { at::linalg_eigvals(matrices); }};
  });
#endif
}

}  // namespace

void RegisterEigenvalues() {
  for (const int64_t order : {8, 16, 32, 64, 128}) Register<float>("float32", order);
  for (const int64_t order : {8, 16, 32, 64, 128}) Register<double>("float64", order);
#ifdef EIGSVC_CUDA_KERNELS
  RegisterForms<float>("float32");
  RegisterForms<double>("float64");
#endif
}

}  // namespace eigsvc::bench
