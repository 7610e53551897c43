// A cancel reaches whatever reads a whole file.
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "models/archive/pickle_machine.h"
#include "models/archive/zip_directory.h"
#include "tests/archive/fixtures.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/stopping.h"

namespace eigsvc::testing {
namespace {

constexpr absl::StatusCode kCancelled = absl::StatusCode::kCancelled;

// A whole safetensors file of one tensor of zeros that takes no room on the disk.
std::string SparseSafetensors(const TemporaryFolder& folder, int64_t elements) {
  std::string header = absl::StrCat(R"({"zeros":{"dtype":"F32","shape":[)", elements,
                                    R"(],"data_offsets":[0,)", 4 * elements, "]}}");
  const uint64_t length = header.size();
  header.insert(0, reinterpret_cast<const char*>(&length), sizeof(length));
  const std::string path = folder.Write("sparse.safetensors", header);
  std::filesystem::resize_file(path, header.size() + 4 * elements);
  return path;
}

TEST(StopTest, HashingAFileStopsInTime) {
  const TemporaryFolder folder;
  const std::string path = SparseSafetensors(folder, int64_t{1} << 29);  // 2 GiB
  for (const bool memory_map : {true, false}) {
    const Stopped stopped = CancelAfter(absl::Milliseconds(50), [&](const StopToken& stop) {
      return Archive::Open(path, {.memory_map = memory_map, .stop = &stop}).status();
    });
    EXPECT_THAT(stopped.status, StatusIs(kCancelled, ::testing::_));
    EXPECT_LT(stopped.took, kStopLimit);
  }
}

TEST(StopTest, ADeadlineEndsTheHashing) {
  const TemporaryFolder folder;
  const std::string path = SparseSafetensors(folder, int64_t{1} << 29);
  const absl::Time deadline = absl::Now() + absl::Milliseconds(50);
  const StopToken stop(deadline);
  EXPECT_THAT(Archive::Open(path, {.memory_map = true, .stop = &stop}),
              StatusIs(absl::StatusCode::kDeadlineExceeded, ::testing::_));
  EXPECT_LT(absl::Now() - deadline, kStopLimit);
}

TEST(StopTest, ALongPickleStopsInTime) {
  std::string program = "\x80\x02N";
  for (int i = 0; i < (64 << 20); ++i) program.append("q\0", 2);  // put it into the memo, over and over
  program += ".";
  const Stopped stopped = CancelAfter(absl::Milliseconds(20), [&](const StopToken& stop) {
    return Pickle::Run(AsBytes(program), stop).status();
  });
  EXPECT_THAT(stopped.status, StatusIs(kCancelled, ::testing::_));
  EXPECT_LT(stopped.took, kStopLimit);
}

TEST(StopTest, ChecksumsAreNotComputedForWhoeverLeft) {
  const std::string file = MakeZip({{"archive/data/0", std::string(100, 'x')}});
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ZipDirectory zip, ZipDirectory::Parse(AsBytes(file)));
  StopToken stop;
  EIGSVC_EXPECT_OK(zip.Read("archive/data/0", stop));
  stop.Cancel();
  EXPECT_THAT(zip.Read("archive/data/0", stop), StatusIs(kCancelled, ::testing::_));
}

}  // namespace
}  // namespace eigsvc::testing
