// Any bytes as a zip file: entries that lie inside the file without overlap, or a Status that says why not.
#include "models/archive/zip_directory.h"

#include <cstdint>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(data), size);
  const absl::StatusOr<eigsvc::ZipDirectory> zip = eigsvc::ZipDirectory::Parse(file);
  if (!zip.ok()) {
    if (zip.status().message().empty()) std::abort();
    return 0;
  }
  size_t total = 0;
  for (const auto& [name, entry] : zip->entries()) {
    if (entry.bytes.data() < file.data() || entry.bytes.data() + entry.bytes.size() > file.data() + size)
      std::abort();
    total += entry.bytes.size();
    const absl::StatusOr<absl::Span<const std::byte>> bytes = zip->Read(name);
    if (!bytes.ok() && bytes.status().message().empty()) std::abort();
  }
  if (total > size) std::abort();  // a bomb: more inside than outside
  return 0;
}
