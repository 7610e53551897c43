// FileBytes: all bytes of one regular file, read or mapped, with their SHA-256. Internal to this room and to
// server/reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/base/stop_token.h"

namespace eigsvc {

struct FileBytes {
  absl::Span<const std::byte> bytes;
  std::shared_ptr<const void> owner;  // keeps `bytes` alive
  std::string sha256;                 // of exactly `bytes`, or of the file whose first ones they are
  // For reading, of a file or of memory that holds exactly `bytes`: for another process. -1: there is none.
  // Goes with `owner` or the OpenedFile.
  int descriptor = -1;
};

// Where the bytes of a file are held: in memory of this process, mapped, or in memory that another process
// may be shown.
enum class Hold { kMemory, kMap, kSharedMemory };

// An opened regular file whose size is known before a byte of it is read.
class OpenedFile {
 public:
  // NOT_FOUND; PERMISSION_DENIED; INVALID_ARGUMENT for what is no regular file (a pipe does not block the
  // caller); UNAVAILABLE for other errors. Every message names the path's last part.
  static absl::StatusOr<OpenedFile> Open(const std::string& path);
  // Takes over a descriptor opened for reading, of a regular file of this name. Errors as Open.
  static absl::StatusOr<OpenedFile> Adopt(int descriptor, const std::string& name);
  OpenedFile(OpenedFile&& other) noexcept;
  OpenedFile& operator=(OpenedFile&&) = delete;
  ~OpenedFile();

  const std::string& name() const { return name_; }  // last part of the path
  int64_t size() const { return size_; }
  // DATA_LOSS when the file shrinks meanwhile; RESOURCE_EXHAUSTED when memory does not suffice; CANCELLED,
  // DEADLINE_EXCEEDED.
  absl::StatusOr<FileBytes> Read(Hold hold, const StopToken& stop = StopToken::Never()) const;
  // Mapped, without a digest. DATA_LOSS when empty; RESOURCE_EXHAUSTED.
  absl::StatusOr<FileBytes> Map() const;
  // The first bytes alone, at most `size` of them, with the digest of these and the rest of the file. `hold`
  // is not kMap. Errors as Read.
  absl::StatusOr<FileBytes> ReadHead(int64_t size, Hold hold, const StopToken& stop) const;
  // Bytes [begin, end), without a digest. Errors as Read; DATA_LOSS when the file was written to since it was
  // opened.
  absl::StatusOr<FileBytes> ReadRange(int64_t begin, int64_t end, const StopToken& stop) const;

 private:
  explicit OpenedFile(int descriptor) : descriptor_(descriptor) {}
  absl::Status ReadAt(int64_t offset, absl::Span<std::byte> out, const StopToken& stop) const;
  absl::Status CheckUnchanged() const;

  int descriptor_;
  std::string name_;
  int64_t size_ = 0;
  int64_t written_seconds_ = 0, written_nanoseconds_ = 0;  // when it was written last
};

// The last part of a path, for messages: they must not tell a client where the server keeps its files.
std::string BaseName(absl::string_view path);
// `"NAME"` with control characters escaped and cut to a readable length: names come from hostile files.
std::string Quoted(absl::string_view name);
// What an errno means for a caller, naming `what` failed.
absl::Status ErrnoStatus(int error, absl::string_view what);

}  // namespace eigsvc
