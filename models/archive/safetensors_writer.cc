// The writer of safetensors files: a temporary neighbour that takes the final name only when it is whole and
// synced.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/archive/file_bytes.h"
#include "models/archive/safetensors.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxWrittenHeaderBytes = size_t{16} << 20;  // what the reader accepts

absl::Status WriteAll(int descriptor, absl::Span<const std::byte> bytes, int64_t offset,
                      const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t count = pwrite(descriptor, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, absl::StrCat("cannot write ", path));
    bytes.remove_prefix(count);
    offset += count;
  }
  return absl::OkStatus();
}

// The file in its full size: a disk that is too small is told before the work, and whoever keeps the disk's
// budget sees at once what the file will take.
absl::Status Allocate(int descriptor, int64_t bytes, const std::string& path) {
  int result;
  do {
    result = fallocate(descriptor, 0, 0, bytes);
  } while (result != 0 && errno == EINTR);
  // Some file systems cannot; there the size is claimed without the room.
  if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) result = ftruncate(descriptor, bytes);
  if (result == 0) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrCat("cannot make room for the ", bytes, " bytes of ", path));
}

// Invalid UTF-8 is replaced: the header must be JSON whatever it is given.
std::string JsonText(const std::string& value) {
  return nlohmann::json(value).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::Status SyncDirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int descriptor = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return ErrnoStatus(errno, absl::StrCat("cannot open the directory of ", path));
  const int result = fsync(descriptor), error = errno;
  close(descriptor);
  // Some file systems cannot sync a directory; the rename itself has succeeded.
  if (result != 0 && error != EINVAL)
    return ErrnoStatus(error, absl::StrCat("cannot sync the directory of ", path));
  return absl::OkStatus();
}

}  // namespace

struct SafetensorsWriter::State {
  std::string path, temporary;
  int descriptor = -1;
  int64_t data_begin = 0, data_bytes = 0;
  int64_t appended = 0;
  absl::btree_map<std::string, std::pair<int64_t, int64_t>>
      tensors;                                // name -> [begin, end) in the data section
  absl::btree_map<int64_t, int64_t> written;  // disjoint, not touching: begin -> end

  ~State() {
    if (descriptor < 0) return;
    close(descriptor);
    unlink(temporary.c_str());
  }

  absl::Status Write(int64_t begin, absl::Span<const std::byte> bytes) {
    EIGSVC_RETURN_IF_ERROR(WriteAll(descriptor, bytes, data_begin + begin, path));
    int64_t end = begin + static_cast<int64_t>(bytes.size());
    auto next = written.upper_bound(begin);
    if (next != written.begin()) {
      if (auto before = std::prev(next); before->second >= begin) {
        begin = before->first;
        end = std::max(end, before->second);
        next = written.erase(before);
      }
    }
    while (next != written.end() && next->first <= end) {
      end = std::max(end, next->second);
      next = written.erase(next);
    }
    if (begin < end) written.emplace(begin, end);
    return absl::OkStatus();
  }
};

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(
    const std::string& path, const std::vector<Declaration>& declarations,
    const absl::btree_map<std::string, std::string>& metadata) {
  auto state = std::make_unique<State>();
  state->path = path;
  // As text, tensor by tensor: an ordered JSON object takes quadratic time to fill.
  std::string text = "{";
  for (const auto& [name, value] : metadata) {
    absl::StrAppend(&text, text.size() == 1 ? "\"__metadata__\":{" : ",", JsonText(name), ":",
                    JsonText(value));
  }
  if (!metadata.empty()) text += '}';
  for (const Declaration& declaration : declarations) {
    if (declaration.type == ElementType::kComplex128) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(declaration.name),
                       " is complex128, which safetensors cannot hold; write C64 or two F64"));
    }
    __int128 bytes = ElementBytes(declaration.type);
    for (const int64_t size : declaration.shape) {
      if (size < 0)
        return absl::InvalidArgumentError(
            absl::StrCat("tensor ", Quoted(declaration.name), " has a negative size"));
      bytes *= size;
      if (bytes > INT64_MAX - state->data_bytes) {
        return absl::InvalidArgumentError(
            absl::StrCat("tensor ", Quoted(declaration.name), " is larger than a file can be"));
      }
    }
    const int64_t begin = state->data_bytes, end = begin + static_cast<int64_t>(bytes);
    if (declaration.name == "__metadata__" || declaration.name.size() > 1024 ||
        !state->tensors.emplace(declaration.name, std::pair(begin, end)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor name ", Quoted(declaration.name),
                       " is declared twice, reserved or longer than 1024 bytes"));
    }
    absl::StrAppend(&text, text.size() == 1 ? "" : ",", JsonText(declaration.name), ":{\"dtype\":\"",
                    ElementName(declaration.type), "\",\"shape\":[", absl::StrJoin(declaration.shape, ","),
                    "],\"data_offsets\":[", begin, ",", end, "]}");
    state->data_bytes = end;
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');  // so that the data begins at a multiple of eight
  if (text.size() > kMaxWrittenHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the header would have ", text.size(), " bytes; at most 16 MiB can be read back"));
  }
  const uint64_t length = text.size();
  std::string start(8, '\0');
  std::memcpy(start.data(), &length, 8);
  start += text;
  state->data_begin = static_cast<int64_t>(start.size());

  // The number keeps two writers of one process apart; O_EXCL, what a dead process of the same id left
  // behind.
  static std::atomic<uint64_t> next_number{0};
  do {
    state->temporary = absl::StrCat(path, ".tmp.", getpid(), ".", next_number++);
    state->descriptor = open(state->temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (state->descriptor < 0 && errno == EEXIST);
  if (state->descriptor < 0) return ErrnoStatus(errno, absl::StrCat("cannot create ", state->temporary));
  EIGSVC_RETURN_IF_ERROR(Allocate(state->descriptor, state->data_begin + state->data_bytes, path));
  EIGSVC_RETURN_IF_ERROR(
      WriteAll(state->descriptor,
               absl::MakeConstSpan(reinterpret_cast<const std::byte*>(start.data()), start.size()), 0, path));
  return SafetensorsWriter(std::move(state));
}

absl::Status SafetensorsWriter::Append(absl::Span<const std::byte> bytes) {
  if (static_cast<int64_t>(bytes.size()) > state_->data_bytes - state_->appended) {
    return absl::FailedPreconditionError(absl::StrCat("more than the declared ", state_->data_bytes,
                                                      " bytes were appended to ", state_->path));
  }
  EIGSVC_RETURN_IF_ERROR(state_->Write(state_->appended, bytes));
  state_->appended += static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::WriteAt(const std::string& name, int64_t byte_offset,
                                        absl::Span<const std::byte> bytes) {
  const auto tensor = state_->tensors.find(name);
  if (tensor == state_->tensors.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("tensor ", Quoted(name), " was not declared for ", state_->path));
  }
  const auto [begin, end] = tensor->second;
  if (byte_offset < 0 || byte_offset > end - begin ||
      static_cast<int64_t>(bytes.size()) > end - begin - byte_offset) {
    return absl::FailedPreconditionError(absl::StrCat(bytes.size(), " bytes at offset ", byte_offset,
                                                      " leave tensor ", Quoted(name), " of ", end - begin,
                                                      " bytes"));
  }
  return state_->Write(begin + byte_offset, bytes);
}

absl::Status SafetensorsWriter::Finish() {
  State& state = *state_;
  const bool whole =
      state.data_bytes == 0 || (state.written.size() == 1 && state.written.begin()->first == 0 &&
                                state.written.begin()->second == state.data_bytes);
  if (!whole) {
    int64_t bytes = 0;
    for (const auto& [begin, end] : state.written) bytes += end - begin;
    return absl::FailedPreconditionError(
        absl::StrCat(bytes, " of the declared ", state.data_bytes, " bytes were written to ", state.path));
  }
  if (fsync(state.descriptor) != 0) return ErrnoStatus(errno, absl::StrCat("cannot sync ", state.temporary));
  if (rename(state.temporary.c_str(), state.path.c_str()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot rename ", state.temporary));
  }
  close(std::exchange(state.descriptor, -1));
  return SyncDirectoryOf(state.path);
}

}  // namespace eigsvc
