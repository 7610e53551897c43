// Archive: the named tensors and settings of a checkpoint as bytes, without LibTorch.
// Start here; the parsers behind it are zip_directory.h, pickle_machine.h and safetensors.h.
//
// Goals: any file, however hostile, ends in an Archive or a Status that names the file, the offset or key,
// and the remedy; nothing is executed, nothing outside the file is read, memory stays within the file's size
// plus 64 MiB (of the header's plus 64 MiB on demand). Non-goals: legacy (pre-1.6) torch files, TorchScript,
// quantised and sharded-by-rank checkpoints: refused by name. Thread rule: an Archive is immutable; share it
// freely.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/base/settings.h"
#include "models/base/stop_token.h"

namespace eigsvc {

enum class ElementType {
  kBool,
  kUInt8,
  kInt8,
  kUInt16,
  kInt16,
  kUInt32,
  kInt32,
  kUInt64,
  kInt64,
  kFloat8E4M3,
  kFloat8E5M2,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
  kComplex64,
  kComplex128,
};
int64_t ElementBytes(ElementType type);
// The safetensors spelling: "F32", "BF16", "F8_E4M3", "I64", "BOOL", "C64", ...
absl::string_view ElementName(ElementType type);

class ContentsReader;
class OpenedFile;

// A strided view of bytes that lie inside the archive (checked: every reachable element is inside `storage`).
struct ArchiveTensor {
  ElementType type = ElementType::kFloat32;
  std::vector<int64_t> shape;           // [] is a scalar; zero-sized dimensions are allowed
  std::vector<int64_t> strides;         // in elements, >= 0, same length as shape
  int64_t offset = 0;                   // of the first element, in elements, into `storage`
  absl::Span<const std::byte> storage;  // little endian; tied tensors share it; start may be unaligned
  std::shared_ptr<const void> owner;    // keeps `storage` alive (file buffer or map)
  // Opened on demand: `storage` is empty, and these bytes of the file are what Fetch puts there.
  std::shared_ptr<const OpenedFile> file = nullptr;
  int64_t file_begin = 0, file_end = 0;
  int64_t ElementCount() const;
};
// The same tensor with its bytes in memory: itself where they are already, else read from its file. DATA_LOSS
// when the file changed since it was opened; RESOURCE_EXHAUSTED; UNAVAILABLE; CANCELLED, DEADLINE_EXCEEDED.
// Safe for concurrent use.
absl::StatusOr<ArchiveTensor> Fetch(const ArchiveTensor& tensor, const StopToken& stop = StopToken::Never());

struct ArchiveOptions {
  // Map files instead of reading them. Only for immutable copies: a file truncated under a map is SIGBUS.
  bool memory_map = false;
  // Leave tensors of safetensors files where they are until Fetch asks for them: memory stays within the
  // header's size. Any other file is read or mapped.
  bool on_demand = false;
  // Refused with RESOURCE_EXHAUSTED before reading when the files together are larger.
  int64_t max_bytes = int64_t{1} << 40;
  // Looked at every few mebibytes while files are read, hashed and checked. Never null; outlives the call.
  const StopToken* stop = &StopToken::Never();
  // Who finds out what the weight files hold (contents.h); null: this process does. Outlives the call.
  const ContentsReader* reader = nullptr;
};

class Archive {
 public:
  // `path`: a .safetensors file; a zip .pt/.pth/.bin/.ckpt file; or a directory holding model.safetensors,
  // model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json or exactly one such file,
  // and optionally config.json. A single file takes the config.json beside it when there is one. The format
  // is told from the bytes, not the name. NOT_FOUND no such path · INVALID_ARGUMENT not a checkpoint of a
  // supported format, or a pickle that names a callable that is not on the list (the message names it) ·
  // DATA_LOSS truncated or inconsistent bytes (the message names the offset) · FAILED_PRECONDITION a known
  // but unsupported kind (legacy torch, TorchScript, quantised) · CANCELLED or DEADLINE_EXCEEDED when told to
  // stop.
  static absl::StatusOr<Archive> Open(const std::string& path, const ArchiveOptions& options = {});

  // For tests and for models made in memory.
  Archive(absl::btree_map<std::string, ArchiveTensor> tensors, Settings settings, std::string name);

  // State-dict keys after unwrapping (`state_dict`, `model`, `model_state_dict`, `module`, ...) and stripping
  // of wrapper prefixes (`module.`, `_orig_mod.`) that all keys share.
  const absl::btree_map<std::string, ArchiveTensor>& tensors() const { return tensors_; }
  // Merged, later wins: scalars and plain dicts found beside the tensors in the pickle (its `config`, `args`
  // or `hyper_parameters` dict is lifted to the top level), safetensors `__metadata__` (its `config` JSON
  // string likewise), config.json.
  const Settings& settings() const { return settings_; }
  const std::string& name() const { return name_; }   // base name of the path, for messages
  int64_t file_bytes() const { return file_bytes_; }  // all weight files together
  // Of a single file: SHA-256 of its bytes. Of a directory: SHA-256 over the lines "SHA256  NAME\n" of its
  // weight and config files in name order (what `sha256sum` prints). Hexadecimal. Of exactly the bytes that
  // were parsed.
  const std::string& sha256() const { return sha256_; }
  absl::string_view format() const { return format_; }  // "safetensors", "torch-zip", "memory"

  int64_t ParameterCount() const;  // elements of all tensors, tied storage counted once

 private:
  Archive() = default;
  absl::btree_map<std::string, ArchiveTensor> tensors_;
  Settings settings_;
  std::string name_, sha256_;
  std::string format_ = "memory";
  int64_t file_bytes_ = 0;
};

// The element as float64, for tests and small tensors; complex values lose the imaginary part.
// Linear index in row-major order over shape. REQUIRES: 0 <= index < ElementCount(), bytes in memory.
double ElementAsDouble(const ArchiveTensor& tensor, int64_t index);

}  // namespace eigsvc
