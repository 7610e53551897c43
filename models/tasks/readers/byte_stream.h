// ByteStream: the bytes of one file of a data set, in order, wherever they lie; read whole or by line.
// Thread rule: one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/base/stop_token.h"

namespace eigsvc {

class ByteStream {
 public:
  explicit ByteStream(std::string name) : name_(std::move(name)) {}
  virtual ~ByteStream() = default;
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;

  const std::string& name() const { return name_; }  // for messages
  // Fills the front of `buffer`; 0 at the end. DATA_LOSS when the bytes are damaged or cut short.
  virtual absl::StatusOr<size_t> Read(absl::Span<char> buffer) = 0;

 private:
  const std::string name_;
};

// A regular file. NOT_FOUND, PERMISSION_DENIED, INVALID_ARGUMENT for anything but a regular file (a pipe does
// not block the caller), UNAVAILABLE; each names `path`. `stop`, which may be null, is looked at in each
// Read.
absl::StatusOr<std::unique_ptr<ByteStream>> OpenFileStream(const std::string& path, const StopToken* stop);

// All that is left of the stream. RESOURCE_EXHAUSTED beyond `max_bytes`, which is all the memory it takes.
absl::StatusOr<std::string> ReadAll(ByteStream& stream, int64_t max_bytes);

// Lines without their "\n" or "\r\n"; the last one may lack it.
class LineReader {
 public:
  explicit LineReader(ByteStream& stream) : stream_(stream) {}

  // False at the end. `line` is valid until the next call. INVALID_ARGUMENT for a line beyond kMaxLineBytes.
  absl::StatusOr<bool> Next(absl::string_view* line);
  int64_t number() const { return number_; }  // of the last line, from 1
  int64_t offset() const { return offset_; }  // of its first byte in the stream
  // "NAME, line 3 (byte 120)": where a message about the last line points.
  std::string Where() const;

  static constexpr size_t kMaxLineBytes = size_t{4} << 20;

 private:
  ByteStream& stream_;
  std::string buffer_;
  size_t begin_ = 0;  // of what is not yet handed out in buffer_
  bool ended_ = false;
  int64_t number_ = 0, offset_ = 0, next_offset_ = 0;
};

}  // namespace eigsvc
