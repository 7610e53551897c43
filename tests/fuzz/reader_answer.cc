// Any bytes as what a confined reader sends to its owner, for all of which it must be taken: contents that
// lie inside the file or a Status in UTF-8 of one of the codes that a client may see for a file, in little
// memory.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "models/base/utf8.h"
#include "server/reader/contents_proto.h"
#include "tests/fuzz/elements.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string unconfined;
  const absl::StatusOr<eigsvc::FileContents> contents = eigsvc::ContentsFromAnswer(
      absl::string_view(reinterpret_cast<const char*>(data), size), "fuzz", unconfined);
  if (!eigsvc::CheckUtf8(unconfined).ok()) std::abort();
  if (!contents.ok()) {
    switch (contents.status().code()) {
      case absl::StatusCode::kInvalidArgument:
      case absl::StatusCode::kFailedPrecondition:
      case absl::StatusCode::kResourceExhausted:
      case absl::StatusCode::kDataLoss:
      case absl::StatusCode::kInternal:
        break;
      default:
        std::abort();
    }
    if (!eigsvc::CheckUtf8(contents.status().message()).ok()) std::abort();
    return 0;
  }
  static const std::string file(4096, 'x');
  const auto bytes = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(file.data()), file.size());
  if (!eigsvc::CheckContents(*contents, static_cast<int64_t>(file.size())).ok()) return 0;
  eigsvc::ReadElements(*contents, bytes);
  return 0;
}
