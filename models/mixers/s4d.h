// S4D (arXiv 2206.11893): a diagonal state space a channel, of conjugate pairs, discretised by zero-order
// hold or the bilinear method; trained by FFT convolution.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/layers/linear_time_invariant.h"
#include "models/mixers/module.h"
#include "models/mixers/state_space_storage.h"

namespace eigsvc {

struct S4dSpec {
  // Of the repository's full version, or of its minimal one, which has no B, calls A_real log_A_real and Δ
  // log_dt, and where Im A = +A_imag.
  StateSpaceStorage storage;
  bool minimal = false;
  bool bilinear = false;
};

inline constexpr absl::string_view kS4dMixer = "s4d";

// Weights D ([M,D], or [D] of the minimal version) and kernel.*: StateSpaceStorage's, or C [D,N/2,2], log_dt
// [D], log_A_real and A_imag [D,N/2]. Outputs [B,T,M·D], all channels of an output together.
class S4d final : public Module {
 public:
  S4d(std::string name, const S4dSpec& spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  StateSpaceParts Parts(const LayerCall& call) const;

  const S4dSpec spec_;
};

}  // namespace eigsvc
