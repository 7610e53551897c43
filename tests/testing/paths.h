// Where tests find things. Shared data is found through one CMake variable, EIGSVC_SHARED_DIR.
#pragma once

#include <filesystem>
#include <string>

namespace eigsvc::testing {

inline std::string SourcePath(const std::string& relative) {
  return std::string(EIGSVC_SOURCE_DIR) + "/" + relative;
}
inline std::string BinaryPath(const std::string& relative) {
  return std::string(EIGSVC_BINARY_DIR) + "/" + relative;
}
inline std::string SharedPath(const std::string& relative) {
  return std::string(EIGSVC_SHARED_DIR) + "/" + relative;
}
inline bool HasShared() { return std::filesystem::exists(SharedPath("data/PROVENANCE.md")); }

}  // namespace eigsvc::testing

// Skips with the reason where the shared data is absent; .ci/run fails before any test where it is.
#define EIGSVC_REQUIRE_SHARED()        \
  if (!::eigsvc::testing::HasShared()) \
  GTEST_SKIP() << "no shared data: configure with -DEIGSVC_SHARED_DIR=/path/to/shared"
