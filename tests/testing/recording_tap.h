// A tap that keeps everything, for tests on short sequences.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "models/transition/normaliser.h"
#include "models/transition/tap.h"

namespace eigsvc::testing {

class RecordingTap : public TransitionTap {
 public:
  bool Wants(int, absl::string_view) const override { return true; }
  absl::Status OnTransition(int layer, absl::string_view mixer, UnitKind unit_kind,
                            Transition transition) override {
    seen[layer].push_back({std::string(mixer), unit_kind, std::move(transition)});
    return absl::OkStatus();
  }

  struct Seen {
    std::string mixer;
    UnitKind unit_kind;
    Transition transition;
  };
  std::map<int, std::vector<Seen>> seen;  // by layer, in order

  // log λ of a layer's only transition. REQUIRES: it is a ScalarPerUnit.
  at::Tensor LogMagnitude(int layer) const {
    return eigsvc::LogMagnitude(std::get<ScalarPerUnit>(seen.at(layer).at(0).transition.kind));
  }
};

}  // namespace eigsvc::testing
