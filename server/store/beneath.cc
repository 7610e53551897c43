#include "server/store/beneath.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/base/status_macros.h"
#include "server/store/names.h"

namespace eigsvc {
namespace {

absl::Status LookupError(const std::string& name, int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ENAMETOOLONG:
      return absl::NotFoundError(absl::StrCat("there is no ", Quoted(name)));
    case EXDEV:
      return absl::InvalidArgumentError(absl::StrCat(
          "name ", Quoted(name), " leaves the root through a symbolic link; links must stay inside"));
    case ELOOP:
      return absl::InvalidArgumentError(absl::StrCat("name ", Quoted(name),
                                                     " runs over a symbolic link that is not "
                                                     "followed here; name the file itself"));
    case EACCES:
      return absl::PermissionDeniedError(
          absl::StrCat(Quoted(name), " may not be read by the daemon's user; change its permissions"));
    default:
      return FileError(absl::StrCat("cannot open ", Quoted(name)), error);
  }
}

// Returns the descriptor or -errno.
int KernelOpen(int directory, const std::string& name) {
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  for (int attempt = 0;; ++attempt) {
    const long fd = syscall(SYS_openat2, directory, name.c_str(), &how, sizeof how);
    if (fd >= 0) return static_cast<int>(fd);
    // A rename during the lookup makes the kernel give up rather than guess.
    if (errno == EAGAIN && attempt < 100) continue;
    return -errno;
  }
}

int WalkOpen(int directory, const std::string& name) {
  Fd current;
  for (absl::string_view component : absl::StrSplit(name, '/')) {
    Fd next(openat(current.valid() ? current.get() : directory, std::string(component).c_str(),
                   O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat info {};
    if (!next.valid() || fstat(next.get(), &info) != 0) return -errno;
    if (S_ISLNK(info.st_mode)) return -ELOOP;
    current = std::move(next);
  }
  return current.Release();
}

}  // namespace

absl::StatusOr<Fd> OpenBeneath(int directory, const std::string& name, Lookup lookup) {
  int opened = lookup == Lookup::kKernel ? KernelOpen(directory, name) : WalkOpen(directory, name);
  // Sandboxes answer a system call they do not know with either.
  if (lookup == Lookup::kKernel && (opened == -ENOSYS || opened == -EPERM))
    opened = WalkOpen(directory, name);
  if (opened < 0) return LookupError(name, -opened);
  Fd fd(opened);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return LookupError(name, errno);
  if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(name), " is neither a regular file nor a directory; only these are read"));
  }
  return fd;
}

absl::StatusOr<std::string> PathOf(int fd) {
  std::string path(PATH_MAX, '\0');
  const ssize_t length = readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), path.data(), path.size());
  if (length < 0) return FileError("cannot read /proc/self/fd", errno);
  path.resize(static_cast<size_t>(length));
  return path;
}

}  // namespace eigsvc
