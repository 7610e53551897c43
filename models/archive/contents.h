// FileContents: what a weight file holds, as places in it. Finding it out is where hostile bytes are taken
// apart, so another process may do it (server/reader) and send what it found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/archive/archive.h"
#include "models/archive/file_bytes.h"
#include "models/base/settings.h"
#include "models/base/stop_token.h"

namespace eigsvc {

struct FileContents {
  struct Tensor {
    ElementType type = ElementType::kFloat32;
    std::vector<int64_t> shape, strides;  // as ArchiveTensor's, as is offset
    int64_t offset = 0;
    int64_t begin = 0, end = 0;  // of its storage: byte offsets into the file
  };
  absl::btree_map<std::string, Tensor> tensors;  // keys as in the file, wrappers' prefixes and all
  Settings settings;                             // what stood beside the tensors, configs lifted
  std::string format;                            // "safetensors", "torch-zip"
};

// `bytes`: a whole file of `file_bytes` bytes, or of a safetensors file the head (SafetensorsHeadBytes).
// `name`: the file's, for the settings' origin. Codes as Archive::Open. What it returns has been checked.
absl::StatusOr<FileContents> ReadContents(absl::Span<const std::byte> bytes, const std::string& name,
                                          int64_t file_bytes, const StopToken& stop = StopToken::Never());

// The tensors of checked contents in the bytes of the whole file, or, on demand, in the file itself.
absl::btree_map<std::string, ArchiveTensor> TensorsIn(const FileContents& contents, const FileBytes& bytes);
absl::btree_map<std::string, ArchiveTensor> TensorsIn(const FileContents& contents,
                                                      const std::shared_ptr<const OpenedFile>& file);

// DATA_LOSS, naming the tensor, unless every element of every tensor lies inside its storage and every
// storage inside a file of `file_bytes` bytes: whatever a confined reader says, nothing else is touched.
absl::Status CheckContents(const FileContents& contents, int64_t file_bytes);

// Finds out contents in some other way than by ReadContents in this process. Thread-safe.
class ContentsReader {
 public:
  virtual ~ContentsReader() = default;
  // As ReadContents, of bytes that have a descriptor. Codes as Archive::Open.
  virtual absl::StatusOr<FileContents> Read(const FileBytes& bytes, const std::string& name,
                                            int64_t file_bytes, const StopToken& stop) const = 0;
};

}  // namespace eigsvc
