// Eigenvalues of diag(d) - z zᵀ: the secular solver beside LibTorch's eigvalsh of the matrices, ready made.
#include <algorithm>
#include <cstdint>
#include <string>

#include "ATen/Parallel.h"
#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/linalg_eigvalsh.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/randn.h"
#include "absl/strings/str_cat.h"
#include "c10/core/ScalarType.h"
#include "models/kernels/rank_one_eigenvalues.h"
#include "tests/bench/race.h"

namespace eigsvc::bench {
namespace {

struct Buffers {
  at::Tensor d, z, values, outcomes;
  template <typename T>
  RankOneProblem<T> Problem(int64_t first, int64_t length) const {
    const int64_t order = d.size(1), offset = first * order;
    return {d.const_data_ptr<T>() + offset,
            z.const_data_ptr<T>() + offset,
            length,
            static_cast<int>(order),
            values.mutable_data_ptr<T>() + offset,
            reinterpret_cast<EigenOutcome*>(outcomes.mutable_data_ptr<int32_t>()) + first};
  }
  at::Tensor Matrices() const {
    const at::Tensor column = z.unsqueeze(-1);
    return at::diag_embed(d) - column * column.transpose(-1, -2);
  }
};

// Gates in [0.9, 1] and unit keys times the root of a strength, as a gated delta rule has them.
Buffers MakeBuffers(int64_t count, int64_t order, at::ScalarType type, const c10::Device& device) {
  const auto options = at::TensorOptions().dtype(type).device(device);
  Buffers buffers;
  buffers.d = 0.9 + 0.1 * at::rand({count, order}, options);
  const at::Tensor key = at::randn({count, order}, options);
  buffers.z = (buffers.d * at::rand({count, 1}, options)).sqrt() * key / key.square().sum({-1}, true).sqrt();
  buffers.values = at::empty_like(buffers.d);
  buffers.outcomes = at::empty({count}, options.dtype(at::kInt));
  return buffers;
}

template <typename T>
void Register(const char* type_name, int64_t order) {
  const at::ScalarType type = c10::CppTypeToScalarType<T>::value;
  const std::string row = absl::StrCat("rank-one ", type_name, "/", order, "/");
  const int64_t host_count = 64 * at::get_num_threads() * (order <= 64 ? 8 : 1);
  const int64_t lapack_count = std::max<int64_t>(host_count / 8, at::get_num_threads());
  Race(row + "ours_host", [=] {
    const Buffers buffers = MakeBuffers(host_count, order, type, c10::kCPU);
    return Work{static_cast<double>(host_count), [=] {
                  InParallel(host_count, 32, [&](int64_t begin, int64_t end) {
                    Check(RankOneEigenvaluesOnCpu(buffers.Problem<T>(begin, end - begin)));
                  });
                }};
  });
  Race(row + "LAPACK", [=] {
    const at::Tensor matrices = MakeBuffers(lapack_count, order, type, c10::kCPU).Matrices();
    return Work{static_cast<double>(lapack_count), [=] {
                  InParallel(lapack_count, 4, [&](int64_t begin, int64_t end) {
                    at::linalg_eigvalsh(matrices.narrow(0, begin, end - begin));
                  });
                }};
  });
#ifdef EIGSVC_CUDA_KERNELS
  if (!HasCuda()) return;
  const c10::Device device(c10::kCUDA, 0);
  Race(row + "ours_device", [=] {
    const int64_t count = (int64_t{1} << 24) / order;
    const Buffers buffers = MakeBuffers(count, order, type, device);
    return Work{static_cast<double>(count),
                [=] { Check(RankOneEigenvaluesOnCuda(buffers.Problem<T>(0, count), CurrentStream())); }};
  });
  Race(row + "cuSOLVER", [=] {
    constexpr int64_t kFew = 1024;
    const at::Tensor matrices = MakeBuffers(kFew, order, type, device).Matrices();
    return Work{static_cast<double>(kFew), [=] { at::linalg_eigvalsh(matrices); }};
  });
#endif
}

}  // namespace

void RegisterRankOne() {
  for (const int64_t order : {16, 32, 64, 128, 256}) Register<float>("float32", order);
  for (const int64_t order : {16, 32, 64, 128, 256}) Register<double>("float64", order);
}

}  // namespace eigsvc::bench
