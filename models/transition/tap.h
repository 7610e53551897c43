// TransitionTap: what a forward pass reports its own transitions to. The model asks first; a "no" costs one
// branch.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "models/base/site.h"
#include "models/transition/transition.h"

namespace eigsvc {

class TransitionTap {
 public:
  virtual ~TransitionTap() = default;
  // Whether it wants what is still to come of a (layer, mixer). `mixer` has static lifetime: "attention",
  // "mamba2".
  virtual bool Wants(int layer, absl::string_view mixer) const = 0;
  // Called once for each chunk of time of a (layer, mixer), in rising order of first_step and without a gap:
  // a wide transition comes in many chunks, so that none of them is large. A constant transition needs one
  // call. The tap may keep nothing but scalars per unit.
  virtual absl::Status OnTransition(int layer, absl::string_view mixer, UnitKind unit_kind,
                                    Transition transition) = 0;
};

}  // namespace eigsvc
