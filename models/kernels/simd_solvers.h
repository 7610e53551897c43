// The SIMD forms by instruction set. Each runs where the processor has it; EigenvaluesOnCpu chooses.
#pragma once

#include <cstdint>

#include "models/kernels/batched_eigenvalues.h"

namespace eigsvc::kernels {

inline constexpr int kSimdAlignment = 64;  // bytes

template <typename T>
struct SimdSolver {
  const char* name = "";
  int lanes = 1;
  int64_t (*work_elements)(int order) = nullptr;
  // `count` <= lanes matrices from `first` on. `work` is aligned to kSimdAlignment.
  void (*run)(const EigenProblem<T>& problem, int64_t first, int count, T* work) = nullptr;
};

SimdSolver<float> Avx512Float();
SimdSolver<double> Avx512Double();
SimdSolver<float> Avx2Float();
SimdSolver<double> Avx2Double();

}  // namespace eigsvc::kernels
