// What attention with a normaliser reports, whatever the normaliser: models/transition/normaliser.h over
// chunks of time.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "models/mixers/module.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {

// log_eta [B,T,H] of this chunk. `last`: what the state keeps of it for the next one. In gauge raw the
// normaliser is in the output and λ is 1. `multiplicity`: dim φ(k)·dim v; 0: infinite.
absl::Status ReportNormaliser(const LayerCall& call, absl::string_view mixer, at::Tensor& last,
                              const at::Tensor& log_eta, int64_t multiplicity, const NoiseFloor& noise_floor);

}  // namespace eigsvc
