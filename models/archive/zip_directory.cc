// The zip format: PKWARE APPNOTE 6.3.10, sections 4.3 (records) and 4.5.3 (zip64 sizes).
#include "models/archive/zip_directory.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/archive/file_bytes.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

constexpr uint32_t kLocalSignature = 0x04034b50, kCentralSignature = 0x02014b50, kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50, kLocator64Signature = 0x07064b50;
constexpr uint64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kEnd64Bytes = 56,
                   kLocator64Bytes = 20;
constexpr uint64_t kMaxEntries = 131072;
constexpr size_t kMaxEntryNameBytes = 1024;
constexpr size_t kChunkBytes = size_t{4} << 20;

using Bytes = absl::Span<const std::byte>;

// REQUIRES: offset + sizeof(T) <= bytes.size(). Zip is little endian, and so is every machine this builds
// for.
template <typename T>
T At(Bytes bytes, uint64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

absl::Status Damaged(absl::string_view what, uint64_t offset) {
  return absl::DataLossError(
      absl::StrCat("the zip file is damaged: ", what, " at byte ", offset, "; copy it again"));
}

// What the end records say of the central directory.
struct Directory {
  uint64_t count, begin, end;
};

absl::StatusOr<Directory> FindDirectory(Bytes file) {
  // The end record is last, before a comment of at most 65 535 bytes whose length it holds.
  if (file.size() < kEndBytes) return Damaged("no end record; it is truncated", file.size());
  const uint64_t last = file.size() - kEndBytes;
  const uint64_t first = last > 65535 ? last - 65535 : 0;
  uint64_t end = last + 1;
  while (end-- > first) {
    if (At<uint32_t>(file, end) == kEndSignature && At<uint16_t>(file, end + 20) == last - end) break;
    if (end == first) return Damaged("no end record; it is truncated", file.size());
  }
  if (At<uint16_t>(file, end + 4) != 0 || At<uint16_t>(file, end + 6) != 0 ||
      At<uint16_t>(file, end + 8) != At<uint16_t>(file, end + 10)) {
    return absl::InvalidArgumentError("the zip file spans several disks; join it into one file");
  }
  uint64_t count = At<uint16_t>(file, end + 10), size = At<uint32_t>(file, end + 12),
           begin = At<uint32_t>(file, end + 16);
  uint64_t directory_end = end;
  if (end >= kLocator64Bytes && At<uint32_t>(file, end - kLocator64Bytes) == kLocator64Signature) {
    const uint64_t end64 = At<uint64_t>(file, end - kLocator64Bytes + 8);
    const uint64_t limit = end - kLocator64Bytes;
    if (limit < kEnd64Bytes || end64 > limit - kEnd64Bytes || At<uint32_t>(file, end64) != kEnd64Signature ||
        At<uint64_t>(file, end64 + 4) != limit - end64 - 12) {
      return Damaged("the zip64 end record is not where its locator says", end - kLocator64Bytes);
    }
    // A field of the old record is either full or equal.
    const uint64_t count64 = At<uint64_t>(file, end64 + 32), size64 = At<uint64_t>(file, end64 + 40),
                   begin64 = At<uint64_t>(file, end64 + 48);
    if ((count != 0xffff && count != count64) || (size != 0xffffffff && size != size64) ||
        (begin != 0xffffffff && begin != begin64) || At<uint64_t>(file, end64 + 24) != count64) {
      return Damaged("its two end records disagree", end64);
    }
    count = count64, size = size64, begin = begin64, directory_end = end64;
  }
  if (begin > directory_end || size != directory_end - begin) {
    return Damaged(absl::StrCat("the directory of ", size, " bytes does not end at its end record"), begin);
  }
  if (count > kMaxEntries || count > size / kCentralBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the zip file declares ", count, " entries in ", size,
                                                   " bytes of directory; at most ", kMaxEntries,
                                                   " are read"));
  }
  return Directory{count, begin, directory_end};
}

absl::Status CheckName(absl::string_view name) {
  bool plain = !name.empty() && name.size() <= kMaxEntryNameBytes && name.front() != '/' &&
               !absl::StrContains(name, '\\');
  for (const absl::string_view part : absl::StrSplit(name, '/')) plain = plain && part != ".." && part != ".";
  for (const char letter : name) plain = plain && static_cast<unsigned char>(letter) >= 0x20;
  if (plain) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the zip file has an entry named ", Quoted(name),
                   ", which is no name of a checkpoint's record; nothing was extracted"));
}

// Sizes and offset of a central header with its zip64 extra field applied.
struct Extent {
  uint64_t uncompressed, compressed, local;
};

absl::StatusOr<Extent> ReadExtent(Bytes file, uint64_t header, uint64_t extra, uint64_t extra_end) {
  Extent extent{At<uint32_t>(file, header + 24), At<uint32_t>(file, header + 20),
                At<uint32_t>(file, header + 42)};
  while (extra_end - extra >= 4) {
    const uint16_t id = At<uint16_t>(file, extra), size = At<uint16_t>(file, extra + 2);
    extra += 4;
    if (size > extra_end - extra) return Damaged("an extra field leaves its header", extra);
    if (id == 1) {
      // Present, in this order, are exactly those whose old field is full.
      uint64_t at = extra;
      for (uint64_t* const field : {&extent.uncompressed, &extent.compressed, &extent.local}) {
        if (*field != 0xffffffff) continue;
        if (extra + size - at < 8) return Damaged("a zip64 field is too short", extra);
        *field = At<uint64_t>(file, at);
        at += 8;
      }
    }
    extra += size;
  }
  return extent;
}

}  // namespace

absl::StatusOr<ZipDirectory> ZipDirectory::Parse(absl::Span<const std::byte> file) {
  EIGSVC_ASSIGN_OR_RETURN(const Directory directory, FindDirectory(file));
  ZipDirectory result;
  std::vector<std::pair<uint64_t, uint64_t>> taken;  // [local header, end of data)
  uint64_t at = directory.begin;
  for (uint64_t i = 0; i < directory.count; ++i) {
    if (directory.end - at < kCentralBytes || At<uint32_t>(file, at) != kCentralSignature) {
      return Damaged(absl::StrCat("no directory entry ", i), at);
    }
    const uint16_t flags = At<uint16_t>(file, at + 8), method = At<uint16_t>(file, at + 10);
    const uint64_t name_bytes = At<uint16_t>(file, at + 28), extra_bytes = At<uint16_t>(file, at + 30),
                   comment_bytes = At<uint16_t>(file, at + 32);
    if (name_bytes + extra_bytes + comment_bytes > directory.end - at - kCentralBytes) {
      return Damaged(absl::StrCat("directory entry ", i, " is cut off"), at);
    }
    const absl::string_view name(reinterpret_cast<const char*>(file.data() + at + kCentralBytes), name_bytes);
    EIGSVC_RETURN_IF_ERROR(CheckName(name));
    if ((flags & 1) != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("entry ", Quoted(name), " of the zip file is encrypted"));
    }
    const uint64_t extra = at + kCentralBytes + name_bytes;
    EIGSVC_ASSIGN_OR_RETURN(const Extent extent, ReadExtent(file, at, extra, extra + extra_bytes));
    if (extent.local > directory.begin || directory.begin - extent.local < kLocalBytes ||
        At<uint32_t>(file, extent.local) != kLocalSignature) {
      return Damaged(absl::StrCat("no local header of entry ", Quoted(name)), extent.local);
    }
    const uint64_t local_name_bytes = At<uint16_t>(file, extent.local + 26);
    const uint64_t data =
        extent.local + kLocalBytes + local_name_bytes + At<uint16_t>(file, extent.local + 28);
    if (data > directory.begin || extent.compressed > directory.begin - data) {
      return Damaged(
          absl::StrCat("entry ", Quoted(name), " of ", extent.compressed, " bytes leaves the file"),
          extent.local);
    }
    const absl::string_view local_name(
        reinterpret_cast<const char*>(file.data() + extent.local + kLocalBytes), local_name_bytes);
    if (At<uint16_t>(file, extent.local + 8) != method || local_name != name) {
      return Damaged(
          absl::StrCat("the local header of entry ", Quoted(name), " disagrees with the directory"),
          extent.local);
    }
    taken.emplace_back(extent.local, data + extent.compressed);
    const Entry entry{file.subspan(data, extent.compressed), At<uint32_t>(file, at + 16),
                      method == 0 && extent.compressed == extent.uncompressed};
    if (!result.entries_.emplace(std::string(name), entry).second) {
      return Damaged(absl::StrCat("entry ", Quoted(name), " occurs twice"), at);
    }
    at += kCentralBytes + name_bytes + extra_bytes + comment_bytes;
  }
  if (at != directory.end) return Damaged("bytes between the last entry and the end record", at);
  std::sort(taken.begin(), taken.end());
  for (size_t i = 1; i < taken.size(); ++i) {
    if (taken[i].first < taken[i - 1].second) return Damaged("two entries overlap", taken[i].first);
  }
  return result;
}

absl::StatusOr<absl::Span<const std::byte>> ZipDirectory::Read(absl::string_view name,
                                                               const StopToken& stop) const {
  const auto found = entries_.find(name);
  if (found == entries_.end())
    return absl::NotFoundError(absl::StrCat("the zip file has no entry ", Quoted(name)));
  const Entry& entry = found->second;
  if (!entry.stored) {
    return absl::InvalidArgumentError(absl::StrCat("entry ", Quoted(name),
                                                   " of the zip file is compressed; torch.save stores its "
                                                   "records uncompressed: save it again with torch.save"));
  }
  // torch.serialization.set_crc32_options(False) leaves a zero, which is all but impossible by chance.
  if (entry.crc32 != 0) {
    uLong computed = 0;
    for (size_t done = 0; done < entry.bytes.size(); done += kChunkBytes) {
      EIGSVC_RETURN_IF_ERROR(stop.Check());
      const Bytes chunk = entry.bytes.subspan(done, kChunkBytes);
      computed = crc32_z(computed, reinterpret_cast<const Bytef*>(chunk.data()), chunk.size());
    }
    if (computed != entry.crc32) {
      return absl::DataLossError(absl::StrCat(
          "entry ", Quoted(name), " of the zip file is damaged (its CRC-32 differs); copy it again"));
    }
  }
  return entry.bytes;
}

}  // namespace eigsvc
