// Normalisations with weights of their own, by kind: what families configure.
#pragma once

#include <cstdint>
#include <string>

#include "models/mixers/module.h"
#include "models/mixers/weights.h"

namespace eigsvc {

struct NormSpec {
  enum class Kind {
    kRms,         // x·rsqrt(mean x² + eps)·w
    kRmsPlusOne,  // the same times (1 + w): Gemma's kin store the weight's distance from one
    kLayer,       // LayerNorm with weight and bias
    kLayerNoBias,
    kLayerPlusOne,  // LayerNorm without bias, times (1 + w)
    kBatch,         // BatchNorm over rows and steps: by running statistics, in training by the batch's own
  };
  Kind kind = Kind::kRms;
  double eps = 1e-5;
  // kBatch: the batch's share of the new running statistics, and whether the variance kept is the unbiased
  // one (torch) or not (flax).
  double momentum = 0.1;
  bool unbiased = true;
};

// "NAME.weight" [size] and, for LayerNorm and BatchNorm, "NAME.bias"; BatchNorm's "NAME.running_mean" and
// "NAME.running_var".
void PlanNorm(const WeightPlanner& planner, const std::string& name, const NormSpec& spec, int64_t size);
// Over the last dimension. Statistics in at least float32; rounded to the weight's dtype.
at::Tensor ApplyNorm(const NormSpec& spec, const Weights& weights, const std::string& name,
                     const at::Tensor& x);
// The same in a layer, which may be in training.
at::Tensor ApplyNorm(const NormSpec& spec, const LayerCall& call, const std::string& name,
                     const at::Tensor& x);

}  // namespace eigsvc
