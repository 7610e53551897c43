// S4 (arXiv 2111.00396): a state space a channel whose matrix is diagonal plus low rank, A = diag(Λ) - P Pᴴ,
// by the bilinear method; trained by FFT convolution with its kernel of fixed length.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/layers/dplr_kernel.h"
#include "models/mixers/module.h"
#include "models/mixers/state_space_storage.h"

namespace eigsvc {

struct S4Spec {
  // Of the state-spaces repository, with one of each conjugate pair and P of rank R. Or, as arXiv
  // 2510.09379's code has it, all N states of every channel: then order is N.
  StateSpaceStorage storage;
  int64_t rank = 1;
  bool all_states = false;
  // L: C is stored as C(I - Ā^L), and longer sequences are not defined by the kernel.
  int64_t length = 0;
  bool normal_output = true;  // fresh C of all_states: normal; else LeCun normal
};

inline constexpr absl::string_view kS4Mixer = "s4";

// Weights D [M,D] and kernel.*: StateSpaceStorage's and P [R,S,N/2,2]; or with all_states D [1,D], Lambda_re,
// Lambda_im [N,D], P, B, C [N,D,2], log_step [1,D], without "kernel.". Outputs as S4d.
class S4 final : public Module {
 public:
  S4(std::string name, const S4Spec& spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  DplrSystem System(const LayerCall& call) const;
  absl::Status Report(const LayerCall& call, const DplrSystem& system) const;
  absl::Status ReportOneChannel(const LayerCall& call, const DplrSystem& system) const;  // E8
  // States of a channel, conjugates included.
  int64_t states() const { return spec_.all_states ? spec_.storage.order : 2 * spec_.storage.order; }

  const S4Spec spec_;
};

}  // namespace eigsvc
