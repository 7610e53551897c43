#include "tests/archive/fixtures.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "gtest/gtest.h"

namespace eigsvc::testing {

TemporaryFolder::TemporaryFolder() : path_(::testing::TempDir() + "archive_test_XXXXXX") {
  if (mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "cannot make " << path_;
}
TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}
std::string TemporaryFolder::Write(const std::string& name, const std::string& bytes) const {
  std::ofstream(Path(name), std::ios::binary) << bytes;
  return Path(name);
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::vector<double> Values(const ArchiveTensor& tensor) {
  std::vector<double> values(tensor.ElementCount());
  for (size_t i = 0; i < values.size(); ++i) values[i] = ElementAsDouble(tensor, static_cast<int64_t>(i));
  return values;
}

absl::StatusOr<Archive> OpenBytes(const std::string& bytes, const std::string& name) {
  const TemporaryFolder folder;
  return Archive::Open(folder.Write(name, bytes));
}

}  // namespace eigsvc::testing
