// Rotary position embeddings (arXiv 2104.09864): dimension pairs of q and k are turned by position·frequency.
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "ATen/core/Tensor.h"
#include "c10/core/Device.h"

namespace eigsvc {

// Which of the turned dimensions make a pair: (2m, 2m+1) in Meta's Llama files, (m, m + size/2) in Hugging
// Face's.
enum class RotaryPairs { kInterleaved, kHalves };

// How frequencies are stretched for contexts longer than those of training; transformers' rope types.
struct RotaryScaling {
  enum class Kind {
    kNone,
    kLinear,    // frequencies divided by the factor
    kDynamic,   // a larger base once the sequence is longer than the original context
    kYarn,      // arXiv 2309.00071: fast frequencies kept, slow ones divided, a ramp between
    kLongRope,  // arXiv 2402.13753: a factor for each frequency, others beyond the original context
    kLlama3,    // fast frequencies kept, slow ones divided, smooth in the wavelength between
  };
  Kind kind = Kind::kNone;
  double factor = 1;                                // of the context; not kLongRope
  double original_positions = 8192;                 // all but kLinear
  double low_factor = 1, high_factor = 4;           // kLlama3: wavelengths per original context
  double beta_fast = 32, beta_slow = 1;             // kYarn: turns over the original context
  bool truncate = true;                             // kYarn: the ramp begins and ends at whole dimensions
  std::vector<double> short_factors, long_factors;  // kLongRope, one a frequency
  double attention_factor = 1;                      // kYarn, kLongRope: cos and sin are multiplied by it
};

struct RotarySpec {
  int64_t size = 0;  // how many dimensions of a head are turned, from the first
  double base = 10000;
  RotaryScaling scaling;
  RotaryPairs pairs = RotaryPairs::kHalves;

  bool DependsOnLength() const;
  // What of a sequence's length its frequencies depend on: the same for lengths of the same frequencies.
  int64_t Stretch(int64_t length) const;
};

// 0.1·mscale·ln(factor) + 1, or 1 where nothing is stretched (arXiv 2309.00071, section 3.4).
double YarnMagnitude(double factor, double mscale = 1);
// √(1 + ln(factor)/ln(original_positions)), or 1 where nothing is stretched (arXiv 2402.13753).
double LongRopeMagnitude(double factor, double original_positions);

// base^(-2m/size) for m < size/2, scaled for a sequence of `length` steps. In float32 unless `dtype` is
// float64: the models were trained with those.
at::Tensor RotaryFrequencies(const RotarySpec& spec, int64_t length, at::ScalarType dtype);

// Turns q and k; shared by the layers of a model, since it keeps the angles of one stretch of positions for
// those that follow. Safe for concurrent use.
class Rotary {
 public:
  // `dtype`: the model's.
  Rotary(RotarySpec spec, at::ScalarType dtype);

  const RotarySpec& spec() const { return spec_; }
  // x [B,T,H,D], row t at position first + t of a sequence of `length` steps -> the same shape and dtype.
  at::Tensor Turn(const at::Tensor& x, int64_t first, int64_t length) const;
  // Of each pair: the angle of one step, [size/2].
  at::Tensor Frequencies(int64_t length) const { return RotaryFrequencies(spec_, length, dtype_); }

 private:
  struct Table {
    int64_t first = 0, stretch = 0;
    at::Tensor cos, sin;  // [T,1,size/2]
  };
  Table TableFor(const at::Tensor& x, int64_t first, int64_t length) const;

  const RotarySpec spec_;
  const at::ScalarType dtype_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<c10::Device, Table> last_;
};

}  // namespace eigsvc
