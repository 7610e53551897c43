// Random: a counter-based generator (Philox 4x32-10; Salmon et al., SC 2011) whose stream is a pure function
// of its key, the same on every platform and thread count. Batches and initial weights are drawn from it. Not
// for cryptography. Thread rule: one object per thread.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

namespace eigsvc {

class Random {
 public:
  // Streams of different keys, in content or length, are independent: Random({seed, split, index}).
  explicit Random(std::initializer_list<uint64_t> key);

  uint64_t Bits();                 // 64 uniform bits
  uint64_t Below(uint64_t bound);  // uniform in [0, bound), unbiased; bound > 0
  double Unit();                   // uniform in [0, 1), 53 bits
  double Normal();                 // standard normal (Box-Muller; libm decides the last bit)

 private:
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 4> block_;
  int used_ = 4;
};

}  // namespace eigsvc
