#include "models/base/host_memory.h"

#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"

namespace eigsvc {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kMiB = 1 << 20;

class HostMemoryTest : public ::testing::Test {
 protected:
  HostMemoryTest() : root_(fs::path(::testing::TempDir()) / "host_memory") {
    fs::remove_all(root_);
    Write("proc/meminfo", "MemTotal: 65536 kB\nMemFree: 1 kB\nMemAvailable: 32768 kB\n");  // 64 and 32 MiB
  }
  ~HostMemoryTest() override { fs::remove_all(root_); }

  void Write(const std::string& name, const std::string& content) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << content;
  }
  void WriteGroup2(const std::string& path, const std::string& limit, int64_t used, int64_t files) {
    Write("sys/fs/cgroup" + path + "/memory.max", limit + "\n");
    Write("sys/fs/cgroup" + path + "/memory.current", std::to_string(used) + "\n");
    Write("sys/fs/cgroup" + path + "/memory.stat", "anon 1\nactive_file " + std::to_string(files / 2) +
                                                       "\ninactive_file " + std::to_string(files / 2) + "\n");
  }
  void Expect(int64_t total, int64_t free) {
    const HostMemory memory = ReadHostMemory(root_.string());
    EXPECT_EQ(memory.total_bytes, total);
    EXPECT_EQ(memory.free_bytes, free);
  }
  const fs::path root_;
};

TEST_F(HostMemoryTest, IsTheMachinesWithoutControlGroups) {
  Expect(64 * kMiB, 32 * kMiB);
  Write("proc/self/cgroup", "0::/user.slice\n");
  WriteGroup2("/user.slice", "max", 50 * kMiB, 0);
  Expect(64 * kMiB, 32 * kMiB);
}

TEST_F(HostMemoryTest, IsTheLeastOfTheGroupsAroundTheProcess) {
  Write("proc/self/cgroup", "0::/pods/one\n");
  WriteGroup2("/pods/one", std::to_string(16 * kMiB), 14 * kMiB, 4 * kMiB);  // 10 held
  Expect(16 * kMiB, 6 * kMiB);
  WriteGroup2("/pods", std::to_string(20 * kMiB), 18 * kMiB, 0);  // its limit is larger, and nearer
  Expect(16 * kMiB, 2 * kMiB);
  WriteGroup2("/pods", std::to_string(12 * kMiB), 11 * kMiB, 0);
  Expect(12 * kMiB, 1 * kMiB);
  WriteGroup2("/pods/one", std::to_string(16 * kMiB), 17 * kMiB, 0);  // for a moment more than allowed
  Expect(12 * kMiB, 0);
}

TEST_F(HostMemoryTest, AContainerSeesItsGroupAtTheMountsRoot) {
  Write("proc/self/cgroup", "0::/kubepods/burstable/pod1/abc\n");
  WriteGroup2("", std::to_string(8 * kMiB), 2 * kMiB, 0);
  Expect(8 * kMiB, 6 * kMiB);
}

TEST_F(HostMemoryTest, ReadsTheFirstVersion) {
  Write("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/docker/abc\n0::/\n");
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", std::to_string(4 * kMiB));
  Write("sys/fs/cgroup/memory/memory.usage_in_bytes", std::to_string(3 * kMiB));
  Write("sys/fs/cgroup/memory/memory.stat", "total_active_file 1048576\ntotal_inactive_file 0\n");
  Expect(4 * kMiB, 2 * kMiB);
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
  Expect(64 * kMiB, 32 * kMiB);
}

TEST_F(HostMemoryTest, NothingIsZeros) {
  fs::remove_all(root_);
  Expect(0, 0);
  const HostMemory here = ReadHostMemory();
  EXPECT_GT(here.total_bytes, 0);
  EXPECT_LE(here.free_bytes, here.total_bytes);
}

}  // namespace
}  // namespace eigsvc
