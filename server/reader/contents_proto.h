// FileContents as a message, for the way from a confined reader to its owner. Internal to this room.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "eigsvc/worker/v1/contents.pb.h"
#include "models/archive/contents.h"

namespace eigsvc {

worker::v1::FileContents ContentsProto(const absl::StatusOr<FileContents>& contents);
// The reader's findings or its error. INTERNAL for what no reader of ours sends. Not yet checked against the
// file.
absl::StatusOr<FileContents> ContentsFromProto(const worker::v1::FileContents& message);

}  // namespace eigsvc
