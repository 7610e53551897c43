// Eigenvalues of what a site reports, and on the host, of one type: what the export writes.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/transition/eigenvalues.h"
#include "models/transition/transition.h"

namespace eigsvc {

struct HostEigenvalues {
  // On the CPU: log_magnitude [B,T,U,K] contiguous, float32 or float64; phase likewise or undefined.
  Eigenvalues eigenvalues;
  bool constant = false;  // B = 1 and T = 1
  int64_t first_step = 0;
  double noise_floor = 0;
};

// ComputeEigenvalues, on the transition's device. INTERNAL when it does not describe `rows` rows of `steps`
// steps, naming the site; else errors of ComputeEigenvalues.
absl::StatusOr<Eigenvalues> ComputeReported(const Transition& transition, int layer, absl::string_view mixer,
                                            int64_t rows, int64_t steps, const EigenvalueOptions& options);
// The same on the host: waits for the device.
absl::StatusOr<HostEigenvalues> ComputeHostEigenvalues(const Transition& transition, int layer,
                                                       absl::string_view mixer, int64_t rows, int64_t steps,
                                                       const EigenvalueOptions& options);

}  // namespace eigsvc
