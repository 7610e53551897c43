// Any bytes as a weight file of whatever format: contents all of whose elements can be read, the same from
// the head of a safetensors file as from the whole of it, or a Status that says why not.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>

#include "models/archive/contents.h"
#include "models/archive/safetensors.h"
#include "tests/fuzz/elements.h"

namespace eigsvc {
namespace {

// What a confined reader might send for another file must be refused, not read.
void CheckAgainstAShorterFile(const FileContents& contents, int64_t size) {
  int64_t last = 0;
  for (const auto& [name, tensor] : contents.tensors) last = std::max(last, tensor.end);
  if (last > 0 && CheckContents(contents, last - 1).ok()) std::abort();
  if (!CheckContents(contents, size).ok()) std::abort();
}

void CompareWithItsHead(const absl::StatusOr<FileContents>& whole, absl::Span<const std::byte> file) {
  if (file.size() < 9) return;
  const std::optional<int64_t> head = SafetensorsHeadBytes(file.first(9));
  if (!head || *head > static_cast<int64_t>(file.size())) return;
  const auto part =
      ReadContents(file.first(static_cast<size_t>(*head)), "fuzz", static_cast<int64_t>(file.size()));
  if (part.ok() != whole.ok()) std::abort();
  if (part.ok() && part->tensors.size() != whole->tensors.size()) std::abort();
}

}  // namespace
}  // namespace eigsvc

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(data), size);
  const absl::StatusOr<eigsvc::FileContents> contents =
      eigsvc::ReadContents(file, "fuzz", static_cast<int64_t>(size));
  eigsvc::CompareWithItsHead(contents, file);
  if (!contents.ok()) {
    if (contents.status().message().empty()) std::abort();
    return 0;
  }
  eigsvc::ReadElements(*contents, file);
  eigsvc::CheckAgainstAShorterFile(*contents, static_cast<int64_t>(size));
  static_cast<void>(contents->settings.ToJson());
  return 0;
}
