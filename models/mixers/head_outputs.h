// What mixers of matrix-valued states share around their recurrence: projections behind a short convolution,
// keys and values that several heads share, and the norm and gate of every head's output.
#pragma once

#include <cstdint>
#include <string>

#include "models/mixers/feed_forward.h"
#include "models/mixers/module.h"

namespace eigsvc {

struct ConvolvedProjectionSpec {
  int64_t width = 0, size = 0;  // of the input, of the output
  int64_t taps = 0;             // of the convolution; 0: none
  bool convolution_bias = false;
  Activation activation = Activation::kIdentity;  // behind it
};

// "NAME_proj.weight" and "NAME_conv1d.weight", ".bias".
void PlanConvolvedProjection(const WeightPlanner& planner, const std::string& name,
                             const ConvolvedProjectionSpec& spec);
at::Tensor ConvolvedProjection(const LayerCall& call, const std::string& name,
                               const ConvolvedProjectionSpec& spec, const at::Tensor& x);

// [B,T,G,d] -> [B,T,H,d]: H/G heads in a row share each group's.
at::Tensor SharedHeads(const at::Tensor& x, int64_t heads);

struct HeadOutputSpec {
  int64_t heads = 0, size = 0;  // size: of a head's values
  std::string norm;             // canonical name of its weights [size]; empty: no norm
  bool affine = true;           // the norm has weights
  double eps = 1e-5;
};
void PlanHeadNorm(const WeightPlanner& planner, const HeadOutputSpec& spec);
// RmsNorm of every head's o [B,T,H,V] -> [B,T,H·V], of `dtype`.
at::Tensor HeadNorm(const LayerCall& call, const HeadOutputSpec& spec, const at::Tensor& o,
                    at::ScalarType dtype);

}  // namespace eigsvc
