#include "server/reader/jail.h"

#include <grp.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace eigsvc {
namespace {

constexpr uid_t kNobody = 65534;

// Descriptors may be read, written to and closed; none can be opened.
constexpr int kAllowed[] = {
    SCMP_SYS(read),          SCMP_SYS(pread64),      SCMP_SYS(write),  SCMP_SYS(sendto),    SCMP_SYS(close),
    SCMP_SYS(brk),           SCMP_SYS(munmap),       SCMP_SYS(mremap), SCMP_SYS(madvise),   SCMP_SYS(futex),
    SCMP_SYS(clock_gettime), SCMP_SYS(rt_sigreturn), SCMP_SYS(exit),   SCMP_SYS(exit_group)};
constexpr int kAllowedUnlessExecutable[] = {SCMP_SYS(mmap), SCMP_SYS(mprotect)};

bool BecomeNobody() {
  if (geteuid() != 0) return true;
  return setgroups(0, nullptr) == 0 && setresgid(kNobody, kNobody, kNobody) == 0 &&
         setresuid(kNobody, kNobody, kNobody) == 0;
}

// Bytes of addresses that this process has taken; -1: unknown.
int64_t AddressBytes() {
  FILE* const file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return -1;
  int64_t pages = -1;
  if (std::fscanf(file, "%ld", &pages) != 1) pages = -1;
  std::fclose(file);
  return pages < 0 ? -1 : pages * sysconf(_SC_PAGESIZE);
}

bool LimitAddresses(int64_t more_bytes) {
  if (kSanitized) return true;
  const int64_t taken = AddressBytes();
  const rlimit limit{static_cast<rlim_t>(taken + more_bytes), static_cast<rlim_t>(taken + more_bytes)};
  return taken >= 0 && setrlimit(RLIMIT_AS, &limit) == 0;
}

// An errno, negative, or 0.
int FilterCalls() {
  if (kSanitized) return 0;
  const std::unique_ptr<void, void (*)(scmp_filter_ctx)> filter(seccomp_init(SCMP_ACT_KILL_PROCESS),
                                                                seccomp_release);
  int error = filter == nullptr ? -ENOMEM : 0;
  for (const int call : kAllowed) {
    if (error == 0) error = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0);
  }
  for (const int call : kAllowedUnlessExecutable) {
    if (error != 0) break;
    error =
        seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  }
  return error == 0 ? seccomp_load(filter.get()) : error;
}

}  // namespace

absl::Status EnterJail(int64_t more_bytes, int64_t file_bytes) {
  std::vector<std::string> refused;
  if (!BecomeNobody()) refused.push_back(absl::StrCat("it stays root: ", std::strerror(errno)));
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // forgotten by a change of user
  if (!LimitAddresses(more_bytes))
    refused.push_back(absl::StrCat("its addresses cannot be limited: ", std::strerror(errno)));
  rlimit time{};
  getrlimit(RLIMIT_CPU, &time);
  time.rlim_cur = std::min(time.rlim_max, 120 + static_cast<rlim_t>(file_bytes >> 26));
  if (setrlimit(RLIMIT_CPU, &time) != 0)
    refused.push_back(absl::StrCat("its processor time cannot be limited: ", std::strerror(errno)));
  const rlimit none{0, 0};
  if (!kSanitized && setrlimit(RLIMIT_NOFILE, &none) != 0)
    refused.push_back(absl::StrCat("its descriptors cannot be limited: ", std::strerror(errno)));
  if (const int error = FilterCalls(); error != 0)
    refused.push_back(absl::StrCat("its system calls cannot be filtered: ", std::strerror(-error)));
  if (refused.empty()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrJoin(refused, "; "));
}

}  // namespace eigsvc
