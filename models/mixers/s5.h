// S5 (arXiv 2208.04933) as arXiv 2510.09379's code has it: one diagonal state space for all channels,
// discretised by zero-order hold or the bilinear method.
#pragma once

#include <cstdint>
#include <string>

#include "models/mixers/diagonal_layer.h"

namespace eigsvc {

struct S5Spec {
  int64_t width = 0;            // D
  int64_t order = 0;            // P: stored states
  bool conjugate_pairs = true;  // each stored state stands for a pair, y = 2 Re(C h)
  bool clip = false;            // Re Λ <= -1e-4
  bool bilinear = false;
  double least_step = 0.001, largest_step = 0.1;  // of fresh ones
  // Of fresh weights: as many blocks of HiPPO-LegS, and how C is drawn.
  int64_t blocks = 1;
  enum class OutputDraw { kLecun, kTruncated, kComplexNormal };
  OutputDraw output_draw = OutputDraw::kLecun;
};

inline constexpr absl::string_view kS5Mixer = "s5";

// Weights Lambda_re, Lambda_im [P], B [P,D,2], C [D,P,2], D [D], log_step [P,1].
class S5 final : public DiagonalLayer {
 public:
  S5(std::string name, const S5Spec& spec)
      : DiagonalLayer(std::move(name), kS5Mixer, spec.width, spec.order, spec.conjugate_pairs), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;

 private:
  System MakeSystem(const LayerCall& call) const override;

  const S5Spec spec_;
};

}  // namespace eigsvc
