// LayerStream: the layers' weights in rising order. One that is not in memory is loaded while the one before
// it runs; where layers do not stay, two are here at a time.
#pragma once

#include <chrono>
#include <future>
#include <utility>

#include "absl/status/statusor.h"
#include "c10/core/GradMode.h"
#include "models/base/stop_token.h"
#include "models/mixers/weights.h"

namespace eigsvc {

// Thread rule: one thread. The references outlive it; it ends when a load that has begun has ended, which the
// stop token hurries.
class LayerStream {
 public:
  LayerStream(const ModelWeights& weights, const StopToken& stop) : weights_(weights), stop_(stop) {
    Prefetch();
  }

  // REQUIRES: fewer calls before than there are layers. CANCELLED and DEADLINE_EXCEEDED while it waits.
  absl::StatusOr<Weights> Next() {
    if (!coming_.valid()) {
      absl::StatusOr<Weights> here = weights_.Layer(next_++, stop_);
      if (here.ok()) Prefetch();
      return here;
    }
    while (coming_.wait_for(std::chrono::milliseconds(10)) == std::future_status::timeout) {
      if (absl::Status status = stop_.Check(); !status.ok()) return status;
    }
    absl::StatusOr<Weights> layer = coming_.get();
    ++next_;
    if (layer.ok()) Prefetch();
    return layer;
  }

 private:
  void Prefetch() {
    if (weights_.source == nullptr || next_ == static_cast<int>(weights_.layers.size())) return;
    if (weights_.source->Kept(next_)) return;
    // A process that is out of threads loads in Next.
    coming_ = std::async(std::launch::async | std::launch::deferred, [this, layer = next_] {
      const c10::NoGradGuard no_grad;
      return weights_.source->Load(layer, stop_);
    });
  }

  const ModelWeights& weights_;
  const StopToken& stop_;
  int next_ = 0;
  std::future<absl::StatusOr<Weights>> coming_;
};

}  // namespace eigsvc
