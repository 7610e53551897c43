// Tensors for tests: drawn, and compared.
#pragma once

#include <cstdint>

#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"
#include "models/base/random.h"

namespace eigsvc::testing {

inline at::Tensor NormalTensor(Random& random, at::IntArrayRef shape, double deviation = 1, double mean = 0) {
  at::Tensor x = at::empty(shape, c10::kDouble);
  double* data = x.mutable_data_ptr<double>();
  for (int64_t i = 0; i < x.numel(); ++i) data[i] = mean + deviation * random.Normal();
  return x;
}

inline at::Tensor UniformTensor(Random& random, at::IntArrayRef shape, double low, double high) {
  at::Tensor x = at::empty(shape, c10::kDouble);
  double* data = x.mutable_data_ptr<double>();
  for (int64_t i = 0; i < x.numel(); ++i) data[i] = low + (high - low) * random.Unit();
  return x;
}

inline at::Tensor RandomTokens(Random& random, int64_t batch, int64_t steps, int64_t vocab_size) {
  at::Tensor tokens = at::empty({batch, steps}, c10::kLong);
  int64_t* data = tokens.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < tokens.numel(); ++i) data[i] = static_cast<int64_t>(random.Below(vocab_size));
  return tokens;
}

// NaN anywhere gives NaN, which no EXPECT_LE lets through.
inline double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(c10::kDouble) - b.to(c10::kDouble)).abs().max().item<double>();
}
inline double MaxMagnitude(const at::Tensor& a) { return a.to(c10::kDouble).abs().max().item<double>(); }
// Of the largest element of `b`.
inline double RelativeDifference(const at::Tensor& a, const at::Tensor& b) {
  return MaxDifference(a, b) / MaxMagnitude(b);
}

}  // namespace eigsvc::testing
