#include "models/base/freed_memory.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "gtest/gtest.h"

namespace eigsvc {
namespace {

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which bring an allocator of their own
// Pages that the kernel has to find for 64 MB taken, written and freed.
int64_t Faults() {
  const auto count = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
  };
  const int64_t before = count();
  constexpr size_t kBytes = 64 << 20;
  const std::unique_ptr<char[]> data(new char[kBytes]);
  std::memset(data.get(), 1, kBytes);
  asm volatile("" : : "r"(data.get()) : "memory");  // as if it were read
  return count() - before;
}

// In a child, whose allocator stays changed.
TEST(FreedMemoryTest, IsKeptUntilItIsReleased) {
  const pid_t child = fork();
  if (child == 0) {
    const int64_t mapped = Faults();
    KeepFreedMemory();
    Faults();
    const int64_t kept = Faults();
    ReleaseFreedMemory();
    const int64_t released = Faults();
    _exit(kept < mapped / 100 && released > mapped / 2 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}
#endif

}  // namespace
}  // namespace eigsvc
