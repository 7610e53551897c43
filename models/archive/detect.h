// Detection: which family and layout a checkpoint is of, from its keys and settings alone, without LibTorch.
// The client links this room, so `eigsvc inspect FILE` works without a daemon.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/archive/archive.h"
#include "models/base/settings.h"

namespace eigsvc {

// A family and one of its checkpoint layouts, e.g. {"mamba2", "state-spaces"}; layouts.h has them all.
struct Detection {
  std::string family;
  std::string layout;
  int64_t layers = 0;
  std::string mixer;  // of its layers: "mamba2" or "attention"
  Settings settings;  // archive settings overridden by the caller's
  Settings typed;     // the caller's alone, of which a misspelt one must not be passed over
};

// The known layout of which a checkpoint has the most keys; of those, the one that lacks the fewest.
struct NearestLayout {
  std::string family, layout;
  std::vector<std::string> missing;  // most telling first; '#' stands for the number of any layer
  std::vector<std::string> others;   // keys of the checkpoint that the layout is not known by, the first 8
};
// Nothing where no key of any layout is there, or nothing but an embedding's that several families have.
std::optional<NearestLayout> FindNearestLayout(const Archive& archive);

// FAILED_PRECONDITION for an unknown checkpoint: the message names the nearest family and the first keys that
// differ.
absl::StatusOr<Detection> Detect(const Archive& archive, const Settings& overrides);

}  // namespace eigsvc
