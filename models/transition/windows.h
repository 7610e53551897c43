// Products over windows of steps (models/base/window.h): the steps a window needs, collected from chunks of
// time, and log|λ| and arg λ of a window from those of its steps, where they commute.
#pragma once

#include <cstdint>
#include <optional>

#include "ATen/core/Tensor.h"
#include "models/base/window.h"
#include "models/transition/discretize.h"
#include "models/transition/transition.h"

namespace eigsvc {

// Collects the chunks of one site. Thread rule: one thread.
class WindowStream {
 public:
  explicit WindowStream(Window window) : window_(window) {}

  // Takes the next chunk of a transition that changes with the step; `first_counted` is the first step that
  // counts. The steps of the windows that it completes, the first window at the first of them, with the
  // first window's number as first_step and the noise floor of W steps; nothing when it completes none.
  // Throws like LibTorch.
  std::optional<Transition> Add(Transition chunk, int64_t first_counted);
  // The first step that counts and that was reported. REQUIRES an Add.
  int64_t origin() const { return origin_; }

 private:
  const Window window_;
  std::optional<Transition> held_;  // from the beginning of the next window on, or of the next chunk
  int64_t origin_ = 0;
  int64_t windows_ = 0;  // handed out
};

// Of windows, from [B,T,U,K] of T steps: [B,window.Count(T),U,K] float64. Steps whose Λ share their
// eigenvectors, as diagonal ones do. Sums do not depend on the chunks. Throws like LibTorch.
LogPolar SumOverWindows(const LogPolar& steps, const Window& window);
// Of λ_a·λ_b, phases of both given.
LogPolar Times(const LogPolar& a, const LogPolar& b);
// Of a constant transition.
LogPolar TimesSteps(const LogPolar& step, int64_t steps);

}  // namespace eigsvc
