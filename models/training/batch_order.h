// In which order the batches of a train split are taken.
#pragma once

#include <cstdint>
#include <numeric>

#include "models/base/random.h"

namespace eigsvc {

// The batch that `step` takes, in [0, batches): each once an epoch, in an order that depends on (seed, epoch)
// alone, so that a resumed run goes on exactly where it stopped. An affine map modulo `batches` shuffles
// splits of any size in no memory. REQUIRES: batches > 0, step >= 0.
inline int64_t BatchAt(uint64_t seed, int64_t step, int64_t batches) {
  constexpr uint64_t kOrderStream = 0x6f72646572;  // "order"
  const uint64_t count = static_cast<uint64_t>(batches);
  const uint64_t epoch = static_cast<uint64_t>(step) / count, place = static_cast<uint64_t>(step) % count;
  Random random({kOrderStream, seed, epoch});
  const uint64_t offset = random.Below(count);
  uint64_t stride = 1;
  do {
    stride = 1 + random.Below(count);
  } while (std::gcd(stride, count) != 1);
  return static_cast<int64_t>((static_cast<unsigned __int128>(stride) * place + offset) % count);
}

}  // namespace eigsvc
