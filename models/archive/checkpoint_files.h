// Which files a checkpoint's path stands for. Internal to this room.
#pragma once

#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

struct CheckpointFiles {
  bool directory = false;
  std::vector<std::string> weights;  // paths, in name order
  std::string config;                // path of config.json, or empty
  absl::btree_map<std::string, std::string>
      weight_map;  // of a sharded checkpoint: tensor -> name of its file
};

// NOT_FOUND · INVALID_ARGUMENT for a directory without, or with several, checkpoints, for an index that
// names anything but bare file names, and for a config.json, an index or a model file of the customary name
// that is no regular file · RESOURCE_EXHAUSTED for an index or config of more than 16 MiB.
absl::StatusOr<CheckpointFiles> FindCheckpointFiles(const std::string& path);

// The text of a small file (an index, a config).
absl::StatusOr<std::string> ReadSmallFile(const std::string& path);

}  // namespace eigsvc
