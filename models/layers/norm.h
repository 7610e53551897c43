// Normalisations over the last dimension. Statistics are taken in float32, or float64 for float64 input.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace eigsvc {

// x·rsqrt(mean x² + eps)·weight, rounded to the weight's dtype.
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps);

// (x - mean)·rsqrt(var + eps)·weight + bias, rounded to the weight's dtype.
at::Tensor LayerNorm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps);

// (x - mean)·rsqrt(variance + eps)·weight + bias by given statistics [D] of each channel.
at::Tensor BatchNorm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                     const at::Tensor& mean, const at::Tensor& variance, double eps);

// The same by the statistics of x [B,T,D] itself over rows and steps; the variance is the biased one.
struct BatchNormOutput {
  at::Tensor y, mean, variance;  // the statistics carry no gradient
};
BatchNormOutput BatchNormByBatch(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                 double eps);

// LayerNorm of each slice x [...,H,D/H] by itself -> [...,D]; weight and bias [D].
at::Tensor GroupNorm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps);

// RmsNorm(x·silu(gate)), or RmsNorm(x)·silu(gate) with norm_before_gate, each of `groups` equal slices of the
// last dimension normalised on its own (Mamba-2; arXiv 2405.21060, section 7.1). Rounded to the weight's
// dtype.
at::Tensor GatedRmsNorm(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& weight, double eps,
                        int64_t groups, bool norm_before_gate);

}  // namespace eigsvc
