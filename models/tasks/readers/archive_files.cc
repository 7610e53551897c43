// Archives through libarchive: its tar and zip formats and nothing else of it. Compression of a tar is zlib's
// (gunzip.cc), because libarchive does not compare gzip's checksums.
#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/base/status_macros.h"
#include "models/tasks/readers/data_files.h"

namespace eigsvc {
namespace {

constexpr size_t kBlockBytes = size_t{256} << 10;
constexpr size_t kTarBlock = 512;

using ArchiveHandle = std::unique_ptr<archive, int (*)(archive*)>;

// What libarchive reads a tar from. Remembers the first error of the bytes below, which libarchive cannot
// carry.
class TarSource {
 public:
  explicit TarSource(std::unique_ptr<ByteStream> stream) : stream_(std::move(stream)), block_(kBlockBytes) {}

  static la_ssize_t Read(archive*, void* self, const void** buffer) {
    auto* source = static_cast<TarSource*>(self);
    *buffer = source->block_.data();
    return static_cast<la_ssize_t>(source->Next());
  }

  // To the end of the file, where gzip keeps its checksum and tar its end mark.
  absl::Status Finish() {
    while (Next() > 0) {
    }
    if (!status_.ok()) return status_;
    if (zeros_ < kTarBlock) {
      return absl::DataLossError(
          absl::StrCat(stream_->name(), " is cut short: a tar ends with a block of zeros; fetch it again"));
    }
    return absl::OkStatus();
  }
  const absl::Status& status() const { return status_; }

 private:
  // Bytes in block_; 0 at the end, -1 after an error.
  int64_t Next() {
    if (!status_.ok()) return -1;
    const absl::StatusOr<size_t> got = stream_->Read(absl::MakeSpan(block_));
    status_ = got.status();
    if (!got.ok()) return -1;
    total_ += static_cast<int64_t>(*got);
    if (total_ > kMaxUnpackedBytes) {
      status_ = absl::ResourceExhaustedError(absl::StrCat(
          stream_->name(), " unpacks to more than ", kMaxUnpackedBytes, " bytes; pack only what is needed"));
      return -1;
    }
    const auto end = block_.begin() + static_cast<int64_t>(*got);
    const auto nonzero =
        std::find_if(std::make_reverse_iterator(end), block_.rend(), [](char c) { return c != 0; });
    const size_t trailing = static_cast<size_t>(end - nonzero.base());
    zeros_ = trailing == *got ? zeros_ + trailing : trailing;
    return static_cast<int64_t>(*got);
  }

  const std::unique_ptr<ByteStream> stream_;
  std::vector<char> block_;
  absl::Status status_;
  int64_t total_ = 0;
  size_t zeros_ = 0;  // that the bytes so far end with
};

absl::Status ArchiveError(archive* handle, absl::string_view name) {
  const char* const what = archive_error_string(handle);
  return absl::DataLossError(absl::StrCat(name, " is damaged or cut short (",
                                          what != nullptr ? what : "no reason given", "); fetch it again"));
}

class EntryStream final : public ByteStream {
 public:
  EntryStream(archive* handle, std::string name, const TarSource* source, const StopToken* stop,
              int64_t* total)
      : ByteStream(std::move(name)), handle_(handle), source_(source), stop_(stop), total_(total) {}

  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override {
    if (stop_ != nullptr) EIGSVC_RETURN_IF_ERROR(stop_->Check());
    la_ssize_t got;
    do {
      got = archive_read_data(handle_, buffer.data(), std::min(buffer.size(), kBlockBytes));
    } while (got == ARCHIVE_RETRY);
    if (source_ != nullptr && !source_->status().ok()) return source_->status();
    if (got < 0) return ArchiveError(handle_, name());
    *total_ += got;
    if (*total_ > kMaxUnpackedBytes) {
      return absl::ResourceExhaustedError(absl::StrCat(name(), " unpacks to more than ", kMaxUnpackedBytes,
                                                       " bytes; pack only what is needed"));
    }
    return static_cast<size_t>(got);
  }

 private:
  archive* const handle_;
  const TarSource* const source_;
  const StopToken* const stop_;
  int64_t* const total_;
};

absl::Status VisitEntries(archive* handle, const std::string& path, const TarSource* source,
                          const DataFileWanted& wanted, const DataFileVisit& visit, const StopToken* stop) {
  int64_t total = 0;
  for (int64_t seen = 0;; ++seen) {
    if (stop != nullptr) EIGSVC_RETURN_IF_ERROR(stop->Check());
    archive_entry* entry = nullptr;
    int result;
    do {
      result = archive_read_next_header(handle, &entry);
    } while (result == ARCHIVE_RETRY);
    if (result == ARCHIVE_EOF) return absl::OkStatus();
    if (source != nullptr && !source->status().ok()) return source->status();
    if (result < ARCHIVE_WARN) return ArchiveError(handle, path);
    if (seen >= kMaxDataFiles) {
      return absl::ResourceExhaustedError(
          absl::StrCat(path, " holds more than ", kMaxDataFiles, " files; pack only what is needed"));
    }
    // Names that the locale has no characters for are there in one of the two.
    const char* stored = archive_entry_pathname_utf8(entry);
    if (stored == nullptr) stored = archive_entry_pathname(entry);
    if (stored == nullptr || archive_entry_filetype(entry) != AE_IFREG) continue;
    absl::string_view name = stored;
    while (absl::ConsumePrefix(&name, "./")) {
    }
    if (!wanted(name)) continue;
    const std::string kept(name);
    EntryStream stream(handle, absl::StrCat(path, ": ", kept), source, stop, &total);
    EIGSVC_RETURN_IF_ERROR(visit(kept, stream));
  }
}

}  // namespace

absl::StatusOr<ArchiveKind> TellArchive(absl::string_view head, const std::string& path) {
  if (absl::StartsWith(head, "\x1f\x8b")) return ArchiveKind::kTarGz;
  if (absl::StartsWith(head, "PK\x03\x04")) return ArchiveKind::kZip;
  if (head.size() == kArchiveHeadBytes && head.substr(257, 5) == "ustar") return ArchiveKind::kTar;
  const absl::string_view others[][2] = {{"BZh", "bzip2"},
                                         {absl::string_view("\xfd"
                                                            "7zXZ\0",
                                                            6),
                                          "xz"},
                                         {"\x28\xb5\x2f\xfd", "zstd"},
                                         {"7z\xbc\xaf", "7z"}};
  for (const auto& [magic, name] : others) {
    if (!absl::StartsWith(head, magic)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is packed with ", name,
                     ", which is not read; unpack it, or pack it again as .tar.gz or .zip"));
  }
  return ArchiveKind::kNone;
}

absl::Status VisitArchive(const std::string& path, ArchiveKind kind, const DataFileWanted& wanted,
                          const DataFileVisit& visit, const StopToken* stop) {
  const ArchiveHandle handle(archive_read_new(), archive_read_free);
  if (handle == nullptr) return absl::ResourceExhaustedError(absl::StrCat("no memory to read ", path));
  if (kind == ArchiveKind::kZip) {
    archive_read_support_format_zip_seekable(handle.get());
    if (archive_read_open_filename(handle.get(), path.c_str(), kBlockBytes) != ARCHIVE_OK) {
      return ArchiveError(handle.get(), path);
    }
    return VisitEntries(handle.get(), path, nullptr, wanted, visit, stop);
  }
  EIGSVC_ASSIGN_OR_RETURN(std::unique_ptr<ByteStream> stream, OpenFileStream(path, stop));
  TarSource source(kind == ArchiveKind::kTarGz ? Gunzip(std::move(stream)) : std::move(stream));
  archive_read_support_format_tar(handle.get());
  if (archive_read_open2(handle.get(), &source, nullptr, TarSource::Read, nullptr, nullptr) != ARCHIVE_OK) {
    if (!source.status().ok()) return source.status();
    return absl::InvalidArgumentError(
        absl::StrCat(path, " holds no tar archive (", archive_error_string(handle.get()), ")"));
  }
  EIGSVC_RETURN_IF_ERROR(VisitEntries(handle.get(), path, &source, wanted, visit, stop));
  return source.Finish();
}

}  // namespace eigsvc
