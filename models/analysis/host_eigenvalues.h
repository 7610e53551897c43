// Eigenvalues on the host, of one type: what the spectra count and the export writes.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/transition/eigenvalues.h"
#include "models/transition/transition.h"

namespace eigsvc {

struct HostEigenvalues {
  at::Tensor log_magnitude;  // [B,T,U,K] contiguous, float32 or float64
  at::Tensor phase;          // same, or undefined
  int64_t multiplicity = 1;
  bool conjugate_pairs = false;
  bool constant = false;  // B = 1 and T = 1
  int64_t first_step = 0;
  double noise_floor = 0;
};

// Waits for the device. INTERNAL when a transition does not describe `rows` rows of `steps` steps, naming the
// site.
absl::StatusOr<HostEigenvalues> ComputeHostEigenvalues(const Transition& transition, int layer,
                                                       absl::string_view mixer, int64_t rows, int64_t steps);

}  // namespace eigsvc
