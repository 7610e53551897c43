// ZipDirectory: the entries of a zip file as spans, every one checked before it is handed out.
// Goals: what PyTorch writes (stored entries, zip64), and a Status for anything else. Non-goals: compression,
// encryption, several disks. Nothing is decompressed, so no archive can be larger inside than outside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/base/stop_token.h"

namespace eigsvc {

class ZipDirectory {
 public:
  // `file`: the whole file, which must outlive this object. Checks: one directory that ends where the end
  // records begin; at most 131 072 entries with distinct names of at most 1024 bytes that are no paths
  // upwards; each stored, unencrypted, with equal sizes, inside the file before the directory, overlapping no
  // other; local and central headers agree. DATA_LOSS truncated or inconsistent (the message names the
  // offset) · INVALID_ARGUMENT not a zip this room reads (the message names the entry).
  static absl::StatusOr<ZipDirectory> Parse(absl::Span<const std::byte> file);

  // All names, in byte order.
  struct Entry {
    absl::Span<const std::byte> bytes;
    uint32_t crc32 = 0;  // as declared; zero where the writer did not compute it
    bool stored = true;  // else `bytes` are compressed
  };
  const absl::btree_map<std::string, Entry>& entries() const { return entries_; }

  // The entry's bytes after its checksum was compared. NOT_FOUND; INVALID_ARGUMENT for a compressed entry;
  // DATA_LOSS when the bytes are damaged; CANCELLED, DEADLINE_EXCEEDED.
  absl::StatusOr<absl::Span<const std::byte>> Read(absl::string_view name,
                                                   const StopToken& stop = StopToken::Never()) const;

 private:
  absl::btree_map<std::string, Entry> entries_;
};

}  // namespace eigsvc
