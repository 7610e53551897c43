// How the state-spaces/s4 repository stores the parameters of S4 and S4D, in versions 2 to 4.
#pragma once

#include <cstdint>
#include <string>

#include "models/mixers/weights.h"

namespace eigsvc {

// A positive quantity is stored as x with transform(x) its value; relu adds 1e-4, as the reference does.
enum class PositiveTransform { kNone, kExp, kRelu, kSigmoid, kSoftplus };

struct StateSpaceStorage {
  int64_t width = 0;                                       // D
  int64_t order = 0;                                       // N/2: one of each conjugate pair
  int64_t copies = 0;                                      // S: of A and B; channel d has that of d mod S
  int64_t outputs = 1;                                     // M: of a channel ("channels" there)
  PositiveTransform step = PositiveTransform::kExp;        // Δ
  PositiveTransform decay = PositiveTransform::kExp;       // -Re A
  PositiveTransform frequency = PositiveTransform::kNone;  // ∓Im A
  bool positive_frequency = false;                // Im A = +transform(A_imag), before version 4; else minus
  bool flat_step = false;                         // Δ is stored as [D], before version 4; else [D,1]
  double least_step = 0.001, largest_step = 0.1;  // of fresh ones
  bool legs = false;  // fresh A and B are HiPPO-LegS's; else -1/2 - iπn and 1 (S4D-Lin)
};

// The parts of the systems, one a channel.
struct StateSpaceParts {
  at::Tensor a, b;  // [D,N/2] complex128
  at::Tensor c;     // [M,D,N/2] complex128
  at::Tensor step;  // [D] float64
};

// Weights inv_dt, A_real, A_imag [S,N/2], B [1,S,N/2,2] and C [M,D,N/2,2], whose names start with `prefix`.
void PlanStateSpace(const WeightPlanner& planner, const std::string& prefix,
                    const StateSpaceStorage& storage);
StateSpaceParts ReadStateSpace(const Weights& weights, const std::string& prefix,
                               const StateSpaceStorage& storage);
// What copies share, [S,...] -> [D,...].
at::Tensor RepeatCopies(const at::Tensor& x, int64_t width);

}  // namespace eigsvc
