// The Linear Recurrent Unit (arXiv 2303.06349): λ = exp(-e^ν + i·e^θ), inputs scaled by e^γ.
#pragma once

#include <cstdint>
#include <string>

#include "models/mixers/diagonal_layer.h"

namespace eigsvc {

struct LruSpec {
  int64_t width = 0;  // D
  int64_t order = 0;  // N
  // Of fresh λ: |λ|² uniform in [least², most²], arg λ in [0, phase).
  double least = 0, most = 1, phase = 6.28;
};

inline constexpr absl::string_view kLruMixer = "lru";

// Weights nu_log, theta_log, gamma_log [N], B_re, B_im [N,D], C_re, C_im [D,N] and D [D].
class Lru final : public DiagonalLayer {
 public:
  Lru(std::string name, const LruSpec& spec)
      : DiagonalLayer(std::move(name), kLruMixer, spec.width, spec.order, /*pairs=*/false), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;

 private:
  System MakeSystem(const LayerCall& call) const override;

  const LruSpec spec_;
};

}  // namespace eigsvc
