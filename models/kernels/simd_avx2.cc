// simd_lanes.h with 32-byte registers.
#include "models/kernels/simd_lanes.h"

namespace eigsvc::kernels {
namespace {

template <typename T>
SimdSolver<T> Solver() {
  using Qr = SimdQr<T, 32>;
  return {"Avx2", 32 / sizeof(T), &Qr::WorkElements,
          [](const EigenProblem<T>& problem, int64_t first, int count, T* work) {
            Qr(problem.order, work).Run(problem, first, count);
          }};
}

}  // namespace

SimdSolver<float> Avx2Float() { return Solver<float>(); }
SimdSolver<double> Avx2Double() { return Solver<double>(); }

}  // namespace eigsvc::kernels
