// TorchZip: the tensors and plain settings of a file written by torch.save (the zip form, since PyTorch 1.6).
// Internal to this room.
#pragma once

#include <string>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "models/archive/archive.h"
#include "models/archive/file_bytes.h"
#include "models/base/settings.h"

namespace eigsvc {

struct TorchZip {
  absl::btree_map<std::string, ArchiveTensor> tensors;  // keys as in the state dict, prefixes and all
  Settings settings;                                    // what stood beside the state dict, configs lifted
};

// Finds the state dict (at the root, or nested under "state_dict", "model", ...) and checks every tensor
// against its storage. Codes as Archive::Open. `name` is the file's, for the settings' origin.
absl::StatusOr<TorchZip> ReadTorchZip(const FileBytes& file, const std::string& name,
                                      const StopToken& stop = StopToken::Never());

// `settings` with the objects under "config", "args", "hyper_parameters" and their like moved to the top
// level.
Settings LiftConfig(const Settings& settings);

}  // namespace eigsvc
