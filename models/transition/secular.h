// Eigenvalues of A = diag(d) - u vᵀ by its secular equation det(I - vᵀ(diag(d) - μ)⁻¹u) = 0 (rank 1:
// Σ u_j v_j/(d_j - μ) = 1), for matrices so far from normal that no backward stable solver in float64 finds
// them: S4's, whose condition numbers pass 1e40 at N = 64. Plain numbers, one matrix at a time. Thread-safe.
#pragma once

#include <complex>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/base/stop_token.h"

namespace eigsvc {

struct SecularProblem {
  int64_t size = 0, rank = 0;
  absl::Span<const std::complex<double>> d;     // [size]
  absl::Span<const std::complex<double>> u, v;  // [size, rank]
};

struct SecularSolution {
  std::vector<std::complex<double>> values;  // μ
  // 1/|yᴴx| of the unit left and right eigenvectors x = (diag(d) - μ)⁻¹u c and y, which the equation gives in
  // closed form.
  std::vector<double> condition;
  std::vector<double> error;  // of μ, to first order: the solver's ε·‖A‖·condition
  int bits = 53;              // of precision
};

// Conditions and errors of `values`, which a backward stable solver found in float64.
SecularSolution Conditioned(const SecularProblem& problem, std::vector<std::complex<double>> values);

// Ehrlich-Aberth on the secular equation from the estimates `values`, in at least 4·size bits. N = 64 takes
// about 0.1 s, N = 256 half a minute. INVALID_ARGUMENT beyond N = 256; CANCELLED and DEADLINE_EXCEEDED from
// `stop`, which is looked at once a root and may be null.
absl::StatusOr<SecularSolution> SolveSecular(const SecularProblem& problem,
                                             std::vector<std::complex<double>> values, const StopToken* stop);

}  // namespace eigsvc
