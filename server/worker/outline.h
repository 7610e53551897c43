// Inspection of a checkpoint with what its family makes of it: the worker's answer to Inspect, with and
// without a daemon. Keys, shapes and settings are read; no weight is.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "eigsvc/v1/checkpoint.pb.h"
#include "models/archive/archive.h"
#include "models/zoo/registry.h"

namespace eigsvc {

struct InspectOptions {
  ArchiveOptions archive;
  std::string dtype;  // that memory is told for, as in AnalysisSpec
  int64_t steps = 0;  // of the sequence that activations are told for; 0: of none
};

// As server/inspection's InspectCheckpoint, and `model`. What keeps the family from making a model of the
// checkpoint is no error either, but its `problem`.
absl::StatusOr<v1::CheckpointInspection> InspectWithModel(const std::string& path,
                                                          absl::string_view settings_json,
                                                          const InspectOptions& options);

v1::ModelOutline OutlineProto(const ModelOutline& outline, at::ScalarType dtype, int64_t steps);

}  // namespace eigsvc
