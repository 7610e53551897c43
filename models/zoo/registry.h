// The one table of model families, of models/archive/families.inc. docs/add-a-model.md says how one is added;
// tests loop over Families().
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "c10/core/Device.h"
#include "c10/core/ScalarType.h"
#include "models/archive/archive.h"
#include "models/archive/detect.h"
#include "models/base/stop_token.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc {

// Which weights a loaded model holds: all of them; those outside the layers, with a layer read from the
// checkpoint whenever it is asked for; or none, when nothing but the description is wanted.
enum class Residency { kAll, kLayer, kNone };

struct LoadOptions {
  c10::Device device = c10::Device(c10::kCPU);
  c10::ScalarType dtype =
      c10::kFloat;  // weights are converted; A_log, dt_bias and D of Mamba-2 stay at least float32
  // Initialised models only: RESOURCE_EXHAUSTED beyond it, before any memory is taken.
  int64_t max_weight_bytes = std::numeric_limits<int64_t>::max();
  // Looked at every few million elements: CANCELLED or DEADLINE_EXCEEDED. Never null; outlives the call.
  const StopToken* stop = &StopToken::Never();
  Residency residency = Residency::kAll;  // checkpoints only
  // Of kAll: a layer is loaded when it is first asked for, which a LayerStream does while the one before it
  // runs. What is wrong with a layer's numbers is said then.
  bool as_it_runs = false;
};

struct FamilyEntry {
  absl::string_view name;            // "mamba2"
  std::vector<std::string> layouts;  // "state-spaces", ...
  absl::string_view summary;         // one line for `eigsvc models`
  absl::string_view transition;      // one line: what λ is
  bool trainable;                    // Initialize works
  absl::StatusOr<std::shared_ptr<const SequenceModel>> (*load)(const Archive&, const Detection&,
                                                               const LoadOptions&);
  // See InitializeModel, which has seen to the layout.
  absl::StatusOr<std::shared_ptr<const SequenceModel>> (*initialize)(const Settings&, uint64_t seed,
                                                                     const LoadOptions&);
  absl::string_view reference;  // where the recurrence is defined: "arXiv 2405.21060"
};

absl::Span<const FamilyEntry> Families();
// NOT_FOUND listing the known families.
absl::StatusOr<const FamilyEntry*> FindFamily(absl::string_view name);

// Detects and loads. FAILED_PRECONDITION: missing, unexpected or mis-shaped keys (the message lists the first
// ones with both shapes) or missing settings. DATA_LOSS: NaN or Inf in a weight, naming its key (of a layer
// that is not held: when it is asked for).
absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadModel(const Archive& archive,
                                                               const Settings& overrides,
                                                               const LoadOptions& options);
// What LoadModel would make, from keys, shapes and settings alone. Errors as LoadModel, but for DATA_LOSS.
struct ModelOutline {
  ModelDescription description;
  WeightPlan plan;
};
absl::StatusOr<ModelOutline> DescribeModel(const Archive& archive, const Settings& overrides);
// A fresh model by the family's own initialiser. `settings`: canonical settings (see ModelDescription) or the
// few a user gives; missing ones take the family's defaults for a small model. NOT_FOUND: a layout that the
// family does not have, listing those it has. INVALID_ARGUMENT: naming the setting.
absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeModel(const FamilyEntry& family,
                                                                     const Settings& settings, uint64_t seed,
                                                                     const LoadOptions& options);
// The same architecture freshly initialised with `seed` (the checkpoint's "twin").
absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeTwin(const SequenceModel& model, uint64_t seed,
                                                                    const LoadOptions& options);

// Writes weights in the model's own layout as safetensors. The metadata's `config` is the JSON of the model's
// settings merged with `extra` (task parameters, training record), so that Archive::Open and Detect need
// nothing else and find both in Archive::settings(). `beside`: tensors that are no weights of the model;
// their names start with kOptimizerPrefix, and loading passes over them.
absl::Status SaveModel(const SequenceModel& model, const ModelWeights& weights, const Settings& extra,
                       const std::string& path, const absl::btree_map<std::string, at::Tensor>& beside = {});
inline constexpr absl::string_view kOptimizerPrefix = "optimizer.";

}  // namespace eigsvc
