#include "models/tasks/readers/byte_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

constexpr size_t kChunkBytes = size_t{1} << 20;

absl::Status FileError(const std::string& path, int error) {
  const std::string message = absl::StrCat("cannot read ", path, ": ", std::strerror(error));
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(message);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
  return absl::UnavailableError(message);
}

class FileStream final : public ByteStream {
 public:
  FileStream(int descriptor, const std::string& path, const StopToken* stop)
      : ByteStream(path), descriptor_(descriptor), stop_(stop) {}
  ~FileStream() override { close(descriptor_); }

  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override {
    if (stop_ != nullptr) EIGSVC_RETURN_IF_ERROR(stop_->Check());
    while (true) {
      const ssize_t got = read(descriptor_, buffer.data(), std::min(buffer.size(), kChunkBytes));
      if (got >= 0) return static_cast<size_t>(got);
      if (errno != EINTR) return FileError(name(), errno);
    }
  }

 private:
  const int descriptor_;
  const StopToken* const stop_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ByteStream>> OpenFileStream(const std::string& path, const StopToken* stop) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) return FileError(path, errno);
  auto stream = std::make_unique<FileStream>(descriptor, path, stop);
  struct stat info {};
  if (fstat(descriptor, &info) != 0) return FileError(path, errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file; name one"));
  }
  return stream;
}

absl::StatusOr<std::string> ReadAll(ByteStream& stream, int64_t max_bytes) {
  std::string bytes;
  std::array<char, 1 << 16> piece;
  while (true) {
    EIGSVC_ASSIGN_OR_RETURN(const size_t got, stream.Read(absl::MakeSpan(piece)));
    if (got == 0) break;
    if (got > static_cast<size_t>(max_bytes) - bytes.size()) {
      return absl::ResourceExhaustedError(absl::StrCat(stream.name(), " is larger than ", max_bytes,
                                                       " bytes, the most that is read; split it"));
    }
    bytes.append(piece.data(), got);
  }
  bytes.shrink_to_fit();  // tens of thousands of small files may be kept
  return bytes;
}

absl::StatusOr<bool> LineReader::Next(absl::string_view* line) {
  size_t searched = begin_;
  size_t end;
  while ((end = buffer_.find('\n', searched)) == std::string::npos && !ended_) {
    searched = buffer_.size() - begin_;
    buffer_.erase(0, begin_);
    begin_ = 0;
    if (buffer_.size() > kMaxLineBytes) break;
    const size_t held = buffer_.size();
    buffer_.resize(held + kChunkBytes);
    EIGSVC_ASSIGN_OR_RETURN(const size_t got, stream_.Read(absl::MakeSpan(buffer_).subspan(held)));
    buffer_.resize(held + got);
    ended_ = got == 0;
  }
  if (end == std::string::npos && begin_ == buffer_.size()) return false;
  const size_t next = end == std::string::npos ? buffer_.size() : end + 1;
  absl::string_view found = absl::string_view(buffer_).substr(begin_, std::min(end, buffer_.size()) - begin_);
  if (!found.empty() && found.back() == '\r') found.remove_suffix(1);
  ++number_;
  offset_ = next_offset_;
  if (found.size() > kMaxLineBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(Where(), ": the line is longer than ", kMaxLineBytes, " bytes; is this a text file?"));
  }
  next_offset_ += static_cast<int64_t>(next - begin_);
  begin_ = next;
  *line = found;
  return true;
}

std::string LineReader::Where() const {
  return absl::StrCat(stream_.name(), ", line ", number_, " (byte ", offset_, ")");
}

}  // namespace eigsvc
