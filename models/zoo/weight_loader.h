// Fills a WeightPlan: from a checkpoint, or freshly drawn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/archive/archive.h"
#include "models/base/settings.h"
#include "models/mixers/weights.h"
#include "models/zoo/registry.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc {

// `settings`: what the plan was made by, defaults included; told where keys or shapes do not fit it.
// Strict: every key of the plan is there with its shape, and nothing else, except keys that match a pattern
// of `ignored` (buffers that the forward pass recomputes). Weights on the CPU that need no conversion stay
// views of the archive's bytes. FAILED_PRECONDITION: lists missing, unexpected and mis-shaped keys, the
// latter with both shapes; weights that are not floating point; tied weights that differ. DATA_LOSS: NaN or
// Inf, naming key and element. CANCELLED, DEADLINE_EXCEEDED: told to stop. Of options.residency kLayer, keys
// and shapes of all are checked here, and what is wrong with a layer's numbers is said when it is loaded; so
// where options.as_it_runs.
absl::StatusOr<ModelWeights> LoadWeights(const Archive& archive, const WeightPlan& plan,
                                         const std::vector<std::string>& ignored, const Settings& settings,
                                         const LoadOptions& options);

// A size of the tensor under `key`; nothing where the archive has no such key or dimension.
std::optional<int64_t> StoredSize(const Archive& archive, const std::string& key, size_t dimension);

// The shape in which the first layer that has as many elements under `pattern`, whose '#' is the layer's
// number, stores them; empty where none does.
std::vector<int64_t> StoredShape(const Archive& archive, absl::string_view pattern, int64_t layers,
                                 int64_t elements);

// A tensor's values depend on (seed, layer, name) alone. `settings`: what the plan was made by, defaults
// included. INVALID_ARGUMENT for more than 2^33 parameters and RESOURCE_EXHAUSTED beyond
// options.max_weight_bytes, naming the largest settings; CANCELLED, DEADLINE_EXCEEDED.
absl::StatusOr<ModelWeights> InitializeWeights(const WeightPlan& plan, const Settings& settings,
                                               uint64_t seed, const LoadOptions& options);

}  // namespace eigsvc
