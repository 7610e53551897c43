// What the tests of this room share: a temporary folder and an archive's values.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/archive/archive.h"
#include "tests/archive/hostile_files.h"

namespace eigsvc::testing {

// A fresh folder under the test's temporary directory, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  std::string Path(const std::string& name) const { return path_ + "/" + name; }
  // The path of a file with these bytes.
  std::string Write(const std::string& name, const std::string& bytes) const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string ReadAll(const std::string& path);
// All elements in row-major order.
std::vector<double> Values(const ArchiveTensor& tensor);
// Opens the bytes as a file of that name.
absl::StatusOr<Archive> OpenBytes(const std::string& bytes, const std::string& name = "file.pt");

}  // namespace eigsvc::testing
