// Rotary position embeddings (arXiv 2104.09864): dimension pairs of q and k are turned by position·frequency.
#pragma once

#include <cstdint>
#include <mutex>

#include "ATen/core/Tensor.h"

namespace eigsvc {

// Which dimensions of a head make a pair: (2m, 2m+1) in Meta's Llama files, (m, m + d/2) in Hugging Face's.
enum class RotaryPairs { kInterleaved, kHalves };

// How frequencies are stretched for contexts longer than those of training; transformers' `rope_scaling`.
struct RotaryScaling {
  enum class Kind { kNone, kLinear, kLlama3 };
  Kind kind = Kind::kNone;
  double factor = 1;  // kLinear, kLlama3: frequencies are divided by it
  double low_factor = 1,
         high_factor = 4;  // kLlama3: in wavelengths per original context, where that begins and ends
  double original_positions = 8192;  // kLlama3
};

// base^(-2m/size) for m < size/2, scaled. In float32 unless `dtype` is float64: the models were trained with
// those.
at::Tensor RotaryFrequencies(int64_t size, double base, const RotaryScaling& scaling, at::ScalarType dtype);

// Angles of one stretch of positions, kept for the layers that follow. Safe for concurrent use.
class Rotary {
 public:
  Rotary(at::Tensor frequencies, RotaryPairs pairs) : frequencies_(std::move(frequencies)), pairs_(pairs) {}

  // x [B,T,H,size], row t at position first + t -> the same shape and dtype.
  at::Tensor Turn(const at::Tensor& x, int64_t first) const;
  // Of each pair: the angle of one step, [size/2].
  const at::Tensor& frequencies() const { return frequencies_; }

 private:
  struct Table {
    int64_t first = 0;
    at::Tensor cos, sin;  // [T,1,size/2]
  };
  Table TableFor(const at::Tensor& x, int64_t first) const;

  const at::Tensor frequencies_;
  const RotaryPairs pairs_;
  mutable std::mutex mutex_;
  mutable Table last_;
};

}  // namespace eigsvc
