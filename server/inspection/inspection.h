// Inspection: what a checkpoint's bytes tell, in the words of the public contract. The worker (RPC Inspect)
// and the client (`eigsvc inspect FILE`, offline) both link it; no LibTorch here. Thread-safe: pure
// functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "eigsvc/v1/checkpoint.pb.h"
#include "models/archive/archive.h"

namespace eigsvc {

// Opens and describes the file or directory `path`. `settings_json` is CheckpointRef.settings_json: empty, or
// a JSON object whose keys win over the checkpoint's own. Errors as Archive::Open, and INVALID_ARGUMENT for
// settings that are no JSON object. A family that cannot be told is no error: `problem` says why, everything
// else is filled.
absl::StatusOr<v1::CheckpointInspection> InspectCheckpoint(const std::string& path,
                                                           absl::string_view settings_json,
                                                           const ArchiveOptions& options = {});

// The same of an open archive.
v1::CheckpointInspection InspectArchive(const Archive& archive, const Settings& overrides);

}  // namespace eigsvc
