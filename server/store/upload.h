// The receiving end of an upload: bytes to files, checked as they come.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/store/blobs.h"
#include "server/store/store.h"

namespace eigsvc {

// The plan's size in bytes. INVALID_ARGUMENT for bad names, sizes or digests, no files or more than 1000.
absl::StatusOr<int64_t> CheckPlan(const UploadPlan& plan);

// Makes a finished file durable and read-only.
absl::Status SealFile(const std::string& path);

absl::StatusOr<std::unique_ptr<Store::Upload>> NewUpload(StoreKind kind, const UploadPlan& plan,
                                                         std::string sha256,
                                                         std::unique_ptr<Blobs::Staging> staging);
// Of content that is there already; takes and drops any bytes.
std::unique_ptr<Store::Upload> NewKnownUpload(std::string sha256);

}  // namespace eigsvc
