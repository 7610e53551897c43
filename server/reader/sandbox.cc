#include "server/reader/sandbox.h"

#include <sched.h>
#include <seccomp.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"

namespace eigsvc {
namespace {

constexpr int kRefused[] = {
    // Other programs, other processes.
    SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(ptrace), SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev), SCMP_SYS(pidfd_getfd), SCMP_SYS(kcmp),
    // What all processes see.
    SCMP_SYS(mount), SCMP_SYS(umount2), SCMP_SYS(pivot_root), SCMP_SYS(chroot), SCMP_SYS(move_mount),
    SCMP_SYS(mount_setattr), SCMP_SYS(open_tree), SCMP_SYS(fsopen), SCMP_SYS(fsconfig), SCMP_SYS(fsmount),
    SCMP_SYS(fspick), SCMP_SYS(unshare), SCMP_SYS(setns), SCMP_SYS(open_by_handle_at), SCMP_SYS(acct),
    SCMP_SYS(quotactl), SCMP_SYS(swapon), SCMP_SYS(swapoff), SCMP_SYS(reboot), SCMP_SYS(sethostname),
    SCMP_SYS(setdomainname), SCMP_SYS(settimeofday), SCMP_SYS(clock_settime), SCMP_SYS(adjtimex),
    SCMP_SYS(clock_adjtime),
    // The kernel itself, and those of its interfaces that flaws are found in.
    SCMP_SYS(init_module), SCMP_SYS(finit_module), SCMP_SYS(delete_module), SCMP_SYS(kexec_load),
    SCMP_SYS(kexec_file_load), SCMP_SYS(iopl), SCMP_SYS(ioperm), SCMP_SYS(syslog), SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open), SCMP_SYS(userfaultfd), SCMP_SYS(io_uring_setup), SCMP_SYS(add_key),
    SCMP_SYS(request_key), SCMP_SYS(keyctl)};

// Of clone(2): what unshare(2) would do.
constexpr scmp_datum_t kNamespaces[] = {CLONE_NEWNS,   CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC,
                                        CLONE_NEWUSER, CLONE_NEWPID,    CLONE_NEWNET};

}  // namespace

absl::Status EnterSandbox() {
  const std::unique_ptr<void, void (*)(scmp_filter_ctx)> filter(seccomp_init(SCMP_ACT_ALLOW),
                                                                seccomp_release);
  int error = filter == nullptr ? -ENOMEM : 0;
  const auto set = [&](scmp_filter_attr attribute) {
    if (error == 0) error = seccomp_attr_set(filter.get(), attribute, 1);
  };
  const auto refuse = [&](int with, int call, auto... arguments) {
    if (error == 0) {
      error = seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(with), call, sizeof...(arguments), arguments...);
    }
  };
  set(SCMP_FLTATR_CTL_TSYNC);  // on every thread
  set(SCMP_FLTATR_CTL_SSB);    // without the slower speculation that a filter used to bring
  for (const int call : kRefused) refuse(EPERM, call);
  refuse(EPERM, SCMP_SYS(socket), SCMP_A0(SCMP_CMP_NE, AF_UNIX));
  for (const scmp_datum_t flag : kNamespaces) {
    refuse(EPERM, SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag));
  }
  refuse(ENOSYS, SCMP_SYS(clone3));  // its flags lie where a filter cannot look; the C library takes clone(2)
  if (error == 0) error = seccomp_load(filter.get());
  if (error == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("system calls cannot be filtered: ", std::strerror(-error)));
}

}  // namespace eigsvc
