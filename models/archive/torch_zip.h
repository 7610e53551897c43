// ReadTorchZip: the tensors and plain settings of a file written by torch.save (the zip form, since
// PyTorch 1.6). Internal to this room.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/archive/contents.h"
#include "models/base/settings.h"

namespace eigsvc {

// Finds the state dict (at the root, or nested under "state_dict", "model", ...) and checks every storage
// against its record; the tensors' shapes are left to CheckContents. Codes as Archive::Open. `name` is the
// file's, for the settings' origin.
absl::StatusOr<FileContents> ReadTorchZip(absl::Span<const std::byte> file, const std::string& name,
                                          const StopToken& stop);

// `settings` with the objects under "config", "args", "hyper_parameters" and their like moved to the top
// level.
Settings LiftConfig(const Settings& settings);

}  // namespace eigsvc
