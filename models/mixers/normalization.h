// Normalisations with weights of their own, by kind: what families configure.
#pragma once

#include <cstdint>
#include <string>

#include "models/mixers/weights.h"

namespace eigsvc {

struct NormSpec {
  enum class Kind {
    kRms,         // x·rsqrt(mean x² + eps)·w
    kRmsPlusOne,  // the same times (1 + w): Gemma's kin store the weight's distance from one
    kLayer,       // LayerNorm with weight and bias
    kLayerNoBias,
  };
  Kind kind = Kind::kRms;
  double eps = 1e-5;
};

// "NAME.weight" [size] and, for LayerNorm, "NAME.bias".
void PlanNorm(const WeightPlanner& planner, const std::string& name, const NormSpec& spec, int64_t size);
// Over the last dimension. Statistics in at least float32; rounded to the weight's dtype.
at::Tensor ApplyNorm(const NormSpec& spec, const Weights& weights, const std::string& name,
                     const at::Tensor& x);

}  // namespace eigsvc
