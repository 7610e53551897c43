// The gzip format (RFC 1952) through zlib, which compares the checksum and the length that end each member.
#include <zlib.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/tasks/readers/data_files.h"

namespace eigsvc {
namespace {

constexpr size_t kInputBytes = size_t{256} << 10;
constexpr int kGzipOnly = 16 + MAX_WBITS;  // no bare zlib or deflate streams

class GunzipStream final : public ByteStream {
 public:
  explicit GunzipStream(std::unique_ptr<ByteStream> compressed)
      : ByteStream(compressed->name()), compressed_(std::move(compressed)), input_(kInputBytes, '\0') {
    ready_ = inflateInit2(&zlib_, kGzipOnly) == Z_OK;
  }
  ~GunzipStream() override {
    if (ready_) inflateEnd(&zlib_);
  }

  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override {
    if (!ready_) return absl::ResourceExhaustedError(absl::StrCat("no memory to unpack ", name()));
    buffer = buffer.subspan(0, std::min(buffer.size(), size_t{1} << 30));
    zlib_.next_out = reinterpret_cast<Bytef*>(buffer.data());
    zlib_.avail_out = static_cast<uInt>(buffer.size());
    while (zlib_.avail_out == buffer.size() && !buffer.empty()) {
      if (zlib_.avail_in == 0) {
        EIGSVC_ASSIGN_OR_RETURN(const size_t got, compressed_->Read(absl::MakeSpan(input_)));
        if (got == 0) {
          if (between_members_) return size_t{0};
          return Damaged("it is cut short");
        }
        taken_ += static_cast<int64_t>(got);
        zlib_.next_in = reinterpret_cast<Bytef*>(input_.data());
        zlib_.avail_in = static_cast<uInt>(got);
      }
      if (between_members_) {
        // Another member may follow; what is none is padding, as gzip itself takes it.
        if (zlib_.next_in[0] != 0x1f) return size_t{0};
        inflateReset(&zlib_);
        between_members_ = false;
      }
      const int result = inflate(&zlib_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) {
        between_members_ = true;
      } else if (result == Z_MEM_ERROR) {
        return absl::ResourceExhaustedError(absl::StrCat("no memory to unpack ", name()));
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        return Damaged(zlib_.msg != nullptr ? zlib_.msg : "it is no gzip stream");
      }
    }
    return buffer.size() - zlib_.avail_out;
  }

 private:
  absl::Status Damaged(absl::string_view what) const {
    return absl::DataLossError(absl::StrCat(name(), " is damaged near byte ", taken_ - zlib_.avail_in, ": ",
                                            what, "; fetch it again"));
  }

  const std::unique_ptr<ByteStream> compressed_;
  std::string input_;
  z_stream zlib_ = {};
  bool ready_ = false;
  bool between_members_ = false;
  int64_t taken_ = 0;  // compressed bytes read
};

}  // namespace

std::unique_ptr<ByteStream> Gunzip(std::unique_ptr<ByteStream> compressed) {
  return std::make_unique<GunzipStream>(std::move(compressed));
}

}  // namespace eigsvc
