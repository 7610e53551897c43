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
  // `mixer` has static lifetime: "attention", "mamba2".
  virtual bool Wants(int layer, absl::string_view mixer) const = 0;
  // Called at most once a (layer, mixer, chunk of time). The tap may keep nothing but scalars per unit.
  virtual absl::Status OnTransition(int layer, absl::string_view mixer, UnitKind unit_kind,
                                    Transition transition) = 0;
};

}  // namespace eigsvc
