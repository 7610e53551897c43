// The safetensors format (huggingface/safetensors, README "Format"): reader of one file's header, and the
// writer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/archive/archive.h"

namespace eigsvc {

struct SafetensorsHeader {
  struct Entry {
    ElementType type;
    std::vector<int64_t> shape;
    int64_t begin, end;  // byte offsets into the file
  };
  absl::btree_map<std::string, Entry> tensors;
  absl::btree_map<std::string, std::string> metadata;
};

// `head`: the first bytes of a file of `file_bytes`, the header at least. Checks: header at most 16 MiB and
// inside the file; no duplicate names (of tensors, fields or metadata); names at most 1024 bytes of valid
// UTF-8; metadata at most 4 MiB; at most 65 536 tensors; offsets contiguous from 0, no holes, no overlap,
// ending at the file's end; sizes equal shape times element with overflow checks. DATA_LOSS truncated or
// inconsistent · INVALID_ARGUMENT not safetensors · FAILED_PRECONDITION an element type (F4, F6, F8_E8M0)
// this service does not read. Sub-byte and unknown types are refused by name.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::Span<const std::byte> head,
                                                         int64_t file_bytes);
inline absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::Span<const std::byte> file) {
  return ParseSafetensorsHeader(file, static_cast<int64_t>(file.size()));
}
// Bytes of the head of a safetensors file, from its first 9 bytes; nothing where it is no such file.
std::optional<int64_t> SafetensorsHeadBytes(absl::Span<const std::byte> first);

// Writes to `path`.tmp.PID.N, syncs and renames: a reader sees the old file or the whole new one.
// Tensors are written in the order given (each chunk as it comes), so that exports larger than memory can be
// written: declare first, append data in declared order, then Finish.
class SafetensorsWriter {
 public:
  struct Declaration {
    std::string name;
    ElementType type;
    std::vector<int64_t> shape;
  };
  // Creates the file in its full size and writes the header. UNAVAILABLE or RESOURCE_EXHAUSTED for I/O
  // errors, naming path and cause.
  static absl::StatusOr<SafetensorsWriter> Create(const std::string& path,
                                                  const std::vector<Declaration>& declarations,
                                                  const absl::btree_map<std::string, std::string>& metadata);
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();  // without Finish: the temporary file is removed

  // The next bytes of the data section.
  absl::Status Append(absl::Span<const std::byte> bytes);
  // Bytes at an offset inside the named tensor's data, in any order.
  absl::Status WriteAt(const std::string& name, int64_t byte_offset, absl::Span<const std::byte> bytes);
  // FAILED_PRECONDITION if fewer or more bytes were appended than declared (WriteAt users: call with all
  // written).
  absl::Status Finish();

 private:
  struct State;
  explicit SafetensorsWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace eigsvc
