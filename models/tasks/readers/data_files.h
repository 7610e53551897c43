// The files of a task's data, whether they lie in a directory or in the archive they are published as.
// Nothing is unpacked to disk and no name from an archive becomes a path. Thread-safe: pure functions.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/base/stop_token.h"
#include "models/tasks/readers/byte_stream.h"

namespace eigsvc {

// Names are relative, with '/': "train/pos/0_9.txt" below a directory (links to directories are not
// followed), the entry's name in an archive, the base name of a single file.
using DataFileWanted = std::function<bool(absl::string_view name)>;
using DataFileVisit = std::function<absl::Status(absl::string_view name, ByteStream& stream)>;

// Calls `visit` for each regular file that is wanted; its first error ends the visit. `path`: a directory
// (files in byte order of their names), a .tar, .tar.gz or .zip (in the archive's order; the whole of a tar
// is read, so that its checksum is), or any other file, which is the only one and wanted whatever its name.
// The kind is told from the bytes. NOT_FOUND, PERMISSION_DENIED: no such path. DATA_LOSS: a truncated or
// damaged archive. INVALID_ARGUMENT: an archive of another kind. RESOURCE_EXHAUSTED: more than kMaxDataFiles
// files, or more than kMaxUnpackedBytes. CANCELLED, DEADLINE_EXCEEDED from `stop`, which may be null.
absl::Status VisitDataFiles(const std::string& path, const DataFileWanted& wanted, const DataFileVisit& visit,
                            const StopToken* stop);
inline constexpr int64_t kMaxDataFiles = int64_t{1} << 21;
inline constexpr int64_t kMaxUnpackedBytes = int64_t{1} << 38;

// archive_files.cc: the same of a tar, gzipped tar or zip.
enum class ArchiveKind { kNone, kTar, kTarGz, kZip };
// Of a file whose first bytes are `head`. INVALID_ARGUMENT for kinds that are known but not read.
absl::StatusOr<ArchiveKind> TellArchive(absl::string_view head, const std::string& path);
inline constexpr size_t kArchiveHeadBytes = 512;
absl::Status VisitArchive(const std::string& path, ArchiveKind kind, const DataFileWanted& wanted,
                          const DataFileVisit& visit, const StopToken* stop);

// gunzip.cc: the contents of a .gz, its checksum compared at the end.
std::unique_ptr<ByteStream> Gunzip(std::unique_ptr<ByteStream> compressed);

// published.cc: compares the file at `path` with "md5 HEX", "sha1 HEX" or "sha256 HEX". DATA_LOSS naming both
// digests; FAILED_PRECONDITION where OpenSSL may not compute it; CANCELLED, DEADLINE_EXCEEDED from `stop`,
// which may be null.
absl::Status CheckPublished(const std::string& path, absl::string_view checksum, const StopToken* stop);

// NOT_FOUND: `path` lacks what `task` needs; where to find and how to lay it out. INVALID_ARGUMENT: it holds
// two of a file.
absl::Status MissingDataFile(absl::string_view task, absl::string_view path, absl::string_view what);
absl::Status RepeatedDataFile(absl::string_view task, absl::string_view name);

// The last part of a path or name.
absl::string_view BaseNameOf(absl::string_view path);

}  // namespace eigsvc
