// One case of the conformance suite (README.md): a checkpoint that an independent implementation made and
// saved, loaded and run by ours, and compared with that implementation's own numbers.
#pragma once

#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "models/base/settings.h"

namespace eigsvc::testing {

struct CaseResult {
  std::string name, family, layout, reference;
  double logits_float32 = 0, logits_float64 = 0;  // largest error relative to the largest logit; 0: not run
  double eigenvalues = 0;             // largest error of an eigenvalue, as a share of what is allowed
  std::vector<std::string> failures;  // empty: passed
};

// Never fails itself: what is wrong with the case's files is one of the failures. On a device other than the
// CPU, float32 only.
CaseResult CheckCase(const std::string& directory, c10::Device device = c10::kCPU);

// The smallest r for which every expected eigenvalue can be given one found eigenvalue of its own within r
// times its tolerance. REQUIRES: found and expected [N] complex128, tolerance [N] float64, positive.
double MatchMultisets(const at::Tensor& found, const at::Tensor& expected, const at::Tensor& tolerance);

}  // namespace eigsvc::testing
