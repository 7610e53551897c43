// Eigenvalues of many small real matrices at once: balancing, Hessenberg form, and Francis's implicit
// double-shift QR (Golub & Van Loan, Matrix Computations, 4th ed., 7.5; the shift and deflation rules are
// those of LAPACK's xLAHQR; a block of warps chases chains of bulges, bulge_chain_qr.h). Plain pointers, no
// LibTorch. No library batches this problem: LAPACK and cuSOLVER solve one matrix at a time.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace eigsvc {

enum class EigenOutcome : int32_t {
  kConverged = 0,
  kNotConverged = 1,  // the iteration limit was reached; the matrix's results are unspecified
  kNotFinite = 2,     // an element is NaN or infinite; the results are NaN
};

// count matrices [order,order], row-major and dense, one behind the other. Results [count,order] each; a
// conjugate pair is adjacent, the positive imaginary part first. No two results overlap.
template <typename T>
struct EigenProblem {
  const T* matrices = nullptr;
  int64_t count = 0;
  int order = 0;  // 1 to kMaxBatchedOrder
  T* real = nullptr;
  T* imaginary = nullptr;
  EigenOutcome* outcomes = nullptr;  // [count]
  int most_sweeps = 0;  // of a matrix, a chain of bulges being one, before it is given up; 0: 30 an
                        // eigenvalue, 300 at least
};

inline constexpr int kMaxBatchedOrder = 128;
// Matrices that share a SIMD register at most. The last bits of a result depend on its neighbours there, so
// who deals a batch out by the clock cuts it at multiples of this, lest they depend on the clock.
inline constexpr int64_t kMostPacked = 16;

// Backward stable: each result is exact for a matrix within a modest multiple of ε·‖A‖ of the given one. T is
// float or double. INVALID_ARGUMENT for an order out of range.

// The plain form, one matrix at a time: what the others are tested against.
template <typename T>
absl::Status PlainEigenvalues(const EigenProblem<T>& problem);

// One matrix a SIMD lane, with AVX-512 or AVX2 where the processor has them; the plain form elsewhere. One
// thread: callers deal the batch out, in multiples of 64 matrices so that lanes are full. RESOURCE_EXHAUSTED.
template <typename T>
absl::Status EigenvaluesOnCpu(const EigenProblem<T>& problem);

// A part of a warp, a warp or a block of several a matrix, by order, in shared memory. Pointers are of the
// current device; `stream` is a cudaStream_t, and the call returns when the work is queued. INTERNAL naming
// the CUDA error; UNIMPLEMENTED where the device has too little shared memory for the order (90 and more in
// fp64 on some). Defined where the build has a CUDA compiler and a CUDA build of LibTorch
// (EIGSVC_CUDA_KERNELS).
template <typename T>
absl::Status EigenvaluesOnCuda(const EigenProblem<T>& problem, void* stream);

}  // namespace eigsvc
