// Any bytes as the pickle of a file of torch.save with three storages: tensors whose every element can be
// read, or a Status that says why not.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "models/archive/contents.h"
#include "tests/archive/hostile_files.h"
#include "tests/fuzz/elements.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using eigsvc::testing::AsBytes;
  const std::string program(reinterpret_cast<const char*>(data), size);
  const std::string file = eigsvc::testing::MakeTorchFile(
      program, {{"0", std::string(96, 'a')}, {"1", std::string(16, 'b')}, {"2", std::string(8, 'c')}});
  const absl::StatusOr<eigsvc::FileContents> zip =
      eigsvc::ReadContents(AsBytes(file), "fuzz", static_cast<int64_t>(file.size()));
  if (!zip.ok()) {
    if (zip.status().message().empty()) std::abort();
    return 0;
  }
  eigsvc::ReadElements(*zip, AsBytes(file));
  static_cast<void>(zip->settings.ToJson());
  return 0;
}
