// Any bytes as a safetensors file: a header whose every tensor lies inside the file, or a Status that says
// why not.
#include <cstdint>
#include <cstdlib>

#include "models/archive/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(data), size);
  const absl::StatusOr<eigsvc::SafetensorsHeader> header = eigsvc::ParseSafetensorsHeader(file);
  if (!header.ok()) {
    if (header.status().message().empty()) std::abort();
    return 0;
  }
  int64_t covered = 0;
  for (const auto& [name, entry] : header->tensors) {
    if (entry.begin < 8 || entry.end < entry.begin || entry.end > static_cast<int64_t>(size)) std::abort();
    int64_t bytes = eigsvc::ElementBytes(entry.type);
    for (const int64_t dimension : entry.shape) bytes *= dimension;
    if (bytes != entry.end - entry.begin) std::abort();
    covered += bytes;
  }
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | data[i];
  if (static_cast<uint64_t>(covered) + header_bytes + 8 != size) std::abort();
  return 0;
}
