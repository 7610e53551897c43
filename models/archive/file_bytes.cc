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

struct Buffer {
  absl::Span<std::byte> bytes;
  std::shared_ptr<const void> owner;
  int descriptor = -1;
};

absl::Status NoMemory(int64_t size, const std::string& name) {
  return absl::ResourceExhaustedError(absl::StrCat("no memory for the ", size, " bytes of ", Quoted(name)));
}

absl::StatusOr<Buffer> AllocateShared(int64_t size, const std::string& name) {
  const int writable = memfd_create("eigsvc", MFD_CLOEXEC);
  if (writable < 0) return NoMemory(size, name);
  const size_t bytes = static_cast<size_t>(size);
  void* const map = ftruncate(writable, size) == 0
                        ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, writable, 0)
                        : MAP_FAILED;
  // Who is shown this one cannot change what the map is about to hold.
  const int readable = open(absl::StrCat("/proc/self/fd/", writable).c_str(), O_RDONLY | O_CLOEXEC);
  close(writable);
  if (map == MAP_FAILED || readable < 0) {
    if (map != MAP_FAILED) munmap(map, bytes);
    if (readable >= 0) close(readable);
    return NoMemory(size, name);
  }
  return Buffer{absl::MakeSpan(static_cast<std::byte*>(map), bytes),
                std::shared_ptr<const void>(map,
                                            [bytes, readable](const void* at) {
                                              munmap(const_cast<void*>(at), bytes);
                                              close(readable);
                                            }),
                readable};
}

absl::StatusOr<Buffer> Allocate(int64_t size, Hold hold, const std::string& name) {
  if (hold == Hold::kSharedMemory) return AllocateShared(size, name);
  auto* const memory =
      static_cast<std::byte*>(::operator new(static_cast<size_t>(size), kAlignment, std::nothrow));
  if (memory == nullptr) return NoMemory(size, name);
  return Buffer{absl::MakeSpan(memory, static_cast<size_t>(size)),
                std::shared_ptr<const void>(
                    memory, [](const void* at) { ::operator delete(const_cast<void*>(at), kAlignment); })};
}

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

OpenedFile::OpenedFile(OpenedFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      name_(std::move(other.name_)),
      size_(other.size_),
      written_seconds_(other.written_seconds_),
      written_nanoseconds_(other.written_nanoseconds_) {}
OpenedFile::~OpenedFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::StatusOr<OpenedFile> OpenedFile::Open(const std::string& path) {
  const std::string name = BaseName(path);
  // O_NONBLOCK: opening a named pipe must not wait for its writer; it changes nothing for regular files.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return ErrnoStatus(errno, absl::StrCat("cannot open ", Quoted(name)));
  return Adopt(descriptor, name);
}

absl::StatusOr<OpenedFile> OpenedFile::Adopt(int descriptor, const std::string& name) {
  OpenedFile file(descriptor);
  file.name_ = name;
  struct stat status;
  if (fstat(descriptor, &status) != 0)
    return ErrnoStatus(errno, absl::StrCat("cannot inspect ", Quoted(name)));
  if (!S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(name), " is not a regular file; name a checkpoint file or directory"));
  }
  file.size_ = status.st_size;
  file.written_seconds_ = status.st_mtim.tv_sec;
  file.written_nanoseconds_ = status.st_mtim.tv_nsec;
  return file;
}

absl::Status OpenedFile::ReadAt(int64_t offset, absl::Span<std::byte> out, const StopToken& stop) const {
  for (size_t done = 0; done < out.size();) {
    EIGSVC_RETURN_IF_ERROR(stop.Check());
    const ssize_t count =
        pread(descriptor_, out.data() + done, std::min(kChunkBytes, out.size() - done), offset + done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", Quoted(name_)));
    if (count == 0) {
      return absl::DataLossError(absl::StrCat(Quoted(name_), " shrank to ", offset + done,
                                              " bytes while it was read; copy it again"));
    }
    done += count;
  }
  return absl::OkStatus();
}

absl::Status OpenedFile::CheckUnchanged() const {
  struct stat status;
  if (fstat(descriptor_, &status) != 0)
    return ErrnoStatus(errno, absl::StrCat("cannot inspect ", Quoted(name_)));
  if (status.st_size == size_ && status.st_mtim.tv_sec == written_seconds_ &&
      status.st_mtim.tv_nsec == written_nanoseconds_) {
    return absl::OkStatus();
  }
  return absl::DataLossError(
      absl::StrCat(Quoted(name_), " was written to while it was in use; work on a copy that stays as it is"));
}

absl::StatusOr<FileBytes> OpenedFile::ReadRange(int64_t begin, int64_t end, const StopToken& stop) const {
  EIGSVC_ASSIGN_OR_RETURN(Buffer buffer, Allocate(end - begin, Hold::kMemory, name_));
  EIGSVC_RETURN_IF_ERROR(ReadAt(begin, buffer.bytes, stop));
  EIGSVC_RETURN_IF_ERROR(CheckUnchanged());
  return FileBytes{buffer.bytes, std::move(buffer.owner), ""};
}

absl::StatusOr<FileBytes> OpenedFile::ReadHead(int64_t size, Hold hold, const StopToken& stop) const {
  size = std::min(size, size_);
  EIGSVC_ASSIGN_OR_RETURN(Buffer head, Allocate(size, hold, name_));
  EIGSVC_RETURN_IF_ERROR(ReadAt(0, head.bytes, stop));
  Sha256 hash;
  hash.Update(head.bytes);
  EIGSVC_ASSIGN_OR_RETURN(const Buffer chunk,
                          Allocate(std::min<int64_t>(kChunkBytes, size_), Hold::kMemory, name_));
  for (int64_t done = size; done < size_; done += kChunkBytes) {
    const absl::Span<std::byte> bytes =
        chunk.bytes.first(static_cast<size_t>(std::min<int64_t>(kChunkBytes, size_ - done)));
    EIGSVC_RETURN_IF_ERROR(ReadAt(done, bytes, stop));
    hash.Update(bytes);
  }
  EIGSVC_RETURN_IF_ERROR(CheckUnchanged());
  return FileBytes{head.bytes, std::move(head.owner), hash.Finish(), head.descriptor};
}

absl::StatusOr<FileBytes> OpenedFile::Map() const {
  if (size_ == 0) return absl::DataLossError(absl::StrCat(Quoted(name_), " is empty"));
  const size_t size = static_cast<size_t>(size_);
  void* map = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor_, 0);
  if (map == MAP_FAILED) return ErrnoStatus(errno, absl::StrCat("cannot map ", Quoted(name_)));
  FileBytes result;
  result.owner =
      std::shared_ptr<const void>(map, [size](const void* at) { munmap(const_cast<void*>(at), size); });
  result.bytes = absl::MakeConstSpan(static_cast<const std::byte*>(map), size);
  result.descriptor = descriptor_;
  return result;
}

absl::StatusOr<FileBytes> OpenedFile::Read(Hold hold, const StopToken& stop) const {
  FileBytes result;
  if (size_ == 0) return absl::DataLossError(absl::StrCat(Quoted(name_), " is empty"));
  const size_t size = static_cast<size_t>(size_);
  Sha256 hash;
  if (hold == Hold::kMap) {
    EIGSVC_ASSIGN_OR_RETURN(result, Map());
    for (size_t done = 0; done < size; done += kChunkBytes) {
      EIGSVC_RETURN_IF_ERROR(stop.Check());
      hash.Update(result.bytes.subspan(done, kChunkBytes));
    }
  } else {
    EIGSVC_ASSIGN_OR_RETURN(Buffer buffer, Allocate(size_, hold, name_));
    for (size_t done = 0; done < size; done += kChunkBytes) {
      const absl::Span<std::byte> bytes = buffer.bytes.subspan(done, std::min(kChunkBytes, size - done));
      EIGSVC_RETURN_IF_ERROR(ReadAt(static_cast<int64_t>(done), bytes, stop));
      hash.Update(bytes);
    }
    result.owner = std::move(buffer.owner);
    result.bytes = buffer.bytes;
    result.descriptor = buffer.descriptor;
  }
  result.sha256 = hash.Finish();
  return result;
}

}  // namespace eigsvc
