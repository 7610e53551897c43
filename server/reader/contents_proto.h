// FileContents as a message, for the way from a confined reader to its owner. Internal to this room.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "eigsvc/worker/v1/contents.pb.h"
#include "models/archive/contents.h"

namespace eigsvc {

// Strings in settings that are not UTF-8 are repaired; numbers that JSON lacks become the texts that
// Settings::Real reads as such.
worker::v1::FileContents ContentsProto(const absl::StatusOr<FileContents>& contents);

// What a reader sent: its findings about the file of this name, not yet checked against the file, or its
// error, of one of the codes that ReadContents has. INTERNAL for what no reader of ours sends, however it was
// made: more than 65 536 tensors, settings of more than 16 MiB or nested too deep, another code. Memory stays
// within a small multiple of the answer's size, which is to be limited by the caller. `unconfined`: what the
// reader says of its confinement.
absl::StatusOr<FileContents> ContentsFromAnswer(absl::string_view answer, const std::string& name,
                                                std::string& unconfined);

}  // namespace eigsvc
