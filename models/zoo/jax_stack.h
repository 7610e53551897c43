// The frame of the state-space models that arXiv 2510.09379 and minimal-LRU write in JAX: a dense encoder
// over one-hot or real inputs, layers of norm, state-space model, GELU and gate on a residual stream,
// pooling, a dense decoder. Checkpoints are those that models/recipes/export_orbax.py makes of theirs.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "models/archive/archive.h"
#include "models/mixers/module.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/stack.h"

namespace eigsvc {

struct JaxFrame {
  const Archive* archive;   // whose shapes decide what its settings leave open; null for a fresh model
  std::string norm_name;    // of a layer's norm in the checkpoint: "normalize", "normalization"
  bool chooses_activation;  // else always both linear layers
};

// A shape of the first layer's state-space model, "nu_log"; nothing for a fresh model.
std::optional<int64_t> StoredSsmSize(const JaxFrame& frame, const std::string& name, size_t dimension);

// Everything but description.family, layout and settings. `layers`: of the checkpoint. `mixer` makes a
// layer's module, named "seq.", of a width; what it reads of the settings it reads once.
absl::StatusOr<StackSpec> JaxStack(
    SettingsReader& reader, const JaxFrame& frame, std::optional<int64_t> layers,
    const std::function<absl::StatusOr<std::function<std::unique_ptr<const Module>()>>(int64_t width)>&
        mixer);

}  // namespace eigsvc
