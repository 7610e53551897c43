// The depthwise causal convolution in front of many mixers, as a part of theirs: its weights, and its last
// inputs kept between chunks of time.
#pragma once

#include <cstdint>
#include <string>

#include "models/mixers/module.h"

namespace eigsvc {

// "NAME.weight" [channels,1,taps] and, with bias, "NAME.bias" [channels].
void PlanShortConvolution(const WeightPlanner& planner, const std::string& name, int64_t channels,
                          int64_t taps, bool bias);
// x [B,T,channels] -> the same shape and dtype. `silu`: of the output.
at::Tensor ShortConvolution(const LayerCall& call, const std::string& name, const at::Tensor& x,
                            bool silu = false);

}  // namespace eigsvc
