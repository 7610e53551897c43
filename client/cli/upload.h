// Upload: a client's files as the server's CheckpointRef or DataRef. A private daemon reads them in place; a
// named server gets them in chunks, addressed by SHA-256, unless it has them already.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/connection.h"
#include "client/cli/progress.h"
#include "eigsvc/v1/catalog_service.pb.h"

namespace eigsvc::cli {

struct UploadSource {
  v1::UploadManifest manifest;
  std::vector<std::string> paths;  // of the manifest's files
  int64_t total_bytes = 0;
};

// What of `path` is to be uploaded as a checkpoint: a file, with the config.json beside it if there is one,
// or the weight and config files of a directory. INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED naming the
// file and remedy.
absl::StatusOr<UploadSource> CheckpointFiles(const std::string& path);
// What of `path` is to be uploaded as data: a file, or the files of a directory without folders. The same
// errors.
absl::StatusOr<UploadSource> DataFiles(const std::string& path);

struct Uploaded {
  std::string sha256;
  bool existed = false;
};
// Fills in the digests, then sends. FAILED_PRECONDITION for a file that changed meanwhile.
absl::StatusOr<Uploaded> UploadCheckpoint(Connection& connection, UploadSource source, Progress& progress);
absl::StatusOr<Uploaded> UploadData(Connection& connection, UploadSource source, Progress& progress);

}  // namespace eigsvc::cli
