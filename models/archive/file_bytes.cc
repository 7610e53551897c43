#include "models/archive/file_bytes.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "models/base/sha256.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

constexpr size_t kChunkBytes = size_t{4} << 20;  // hashed while it is still in the cache
constexpr std::align_val_t kAlignment{64};       // so that aligned records stay aligned for vector loads

}  // namespace

std::string BaseName(absl::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  const size_t slash = path.rfind('/');
  return std::string(slash == absl::string_view::npos || path.size() == 1 ? path : path.substr(slash + 1));
}

std::string Quoted(absl::string_view name) {
  constexpr size_t kLongest = 200;
  return absl::StrCat("\"", absl::Utf8SafeCEscape(name.substr(0, kLongest)),
                      name.size() > kLongest ? "..." : "", "\"");
}

absl::Status ErrnoStatus(int error, absl::string_view what) {
  const std::string message = absl::StrCat(what, ": ", std::generic_category().message(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(message);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(message);
    case ENAMETOOLONG:
    case ELOOP:
    case EISDIR:
      return absl::InvalidArgumentError(message);
    default:
      return absl::UnavailableError(message);
  }
}

OpenedFile::OpenedFile(int descriptor, std::string name, int64_t size)
    : descriptor_(descriptor), name_(std::move(name)), size_(size) {}
OpenedFile::OpenedFile(OpenedFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), name_(std::move(other.name_)), size_(other.size_) {}
OpenedFile::~OpenedFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::StatusOr<OpenedFile> OpenedFile::Open(const std::string& path) {
  const std::string name = BaseName(path);
  // O_NONBLOCK: opening a named pipe must not wait for its writer; it changes nothing for regular files.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return ErrnoStatus(errno, absl::StrCat("cannot open ", Quoted(name)));
  OpenedFile file(descriptor, name, 0);
  struct stat status;
  if (fstat(descriptor, &status) != 0)
    return ErrnoStatus(errno, absl::StrCat("cannot inspect ", Quoted(name)));
  if (!S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(name), " is not a regular file; name a checkpoint file or directory"));
  }
  file.size_ = status.st_size;
  return file;
}

absl::StatusOr<FileBytes> OpenedFile::Read(bool memory_map, const StopToken& stop) const {
  FileBytes result;
  if (size_ == 0) return absl::DataLossError(absl::StrCat(Quoted(name_), " is empty"));
  const size_t size = static_cast<size_t>(size_);
  Sha256 hash;
  if (memory_map) {
    void* map = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor_, 0);
    if (map == MAP_FAILED) return ErrnoStatus(errno, absl::StrCat("cannot map ", Quoted(name_)));
    result.owner =
        std::shared_ptr<const void>(map, [size](const void* at) { munmap(const_cast<void*>(at), size); });
    result.bytes = absl::MakeConstSpan(static_cast<const std::byte*>(map), size);
    for (size_t done = 0; done < size; done += kChunkBytes) {
      EIGSVC_RETURN_IF_ERROR(stop.Check());
      hash.Update(result.bytes.subspan(done, kChunkBytes));
    }
  } else {
    auto* const buffer = static_cast<std::byte*>(::operator new(size, kAlignment, std::nothrow));
    if (buffer == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no memory for the ", size, " bytes of ", Quoted(name_)));
    }
    result.owner = std::shared_ptr<const void>(
        buffer, [](const void* at) { ::operator delete(const_cast<void*>(at), kAlignment); });
    result.bytes = absl::MakeConstSpan(buffer, size);
    for (size_t done = 0; done < size;) {
      EIGSVC_RETURN_IF_ERROR(stop.Check());
      const ssize_t count = pread(descriptor_, buffer + done, std::min(kChunkBytes, size - done), done);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", Quoted(name_)));
      if (count == 0) {
        return absl::DataLossError(
            absl::StrCat(Quoted(name_), " shrank to ", done, " bytes while it was read; copy it again"));
      }
      hash.Update(absl::MakeConstSpan(buffer + done, count));
      done += count;
    }
  }
  result.sha256 = hash.Finish();
  return result;
}

}  // namespace eigsvc
