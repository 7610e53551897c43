// The reader of safetensors headers. The JSON is read event by event: duplicate names are seen (a parsed
// object would have dropped them) and memory stays near the header's own size.
#include "models/archive/safetensors.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/archive/file_bytes.h"

namespace eigsvc {
namespace {

constexpr uint64_t kMaxHeaderBytes = uint64_t{16} << 20;
constexpr size_t kMaxStringBytes = size_t{4}
                                   << 20;  // of a configuration in the metadata, and of all metadata
constexpr size_t kMaxMetadata = 4096;
constexpr size_t kMaxNumberBytes = 64;
constexpr size_t kMaxTensors = 65536;
constexpr size_t kMaxNameBytes = 1024;
constexpr size_t kMaxDimensions = 64;
constexpr absl::string_view kMetadata = "__metadata__";

std::optional<ElementType> ElementTypeNamed(absl::string_view name) {
  for (int i = 0; i <= static_cast<int>(ElementType::kComplex128); ++i) {
    // C128 is ours, for reading torch files; the format has no such type.
    if (const auto type = static_cast<ElementType>(i);
        type != ElementType::kComplex128 && ElementName(type) == name) {
      return type;
    }
  }
  return std::nullopt;
}

// Receives the events of nlohmann's SAX parser; a false answer ends the parse with `status`.
class SafetensorsEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsHeader header;
  absl::Status status;

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a truth value"); }
  bool number_integer(number_integer_t) override { return Unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return Unexpected("a fraction"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (where_ != kShape && where_ != kOffsets) return Unexpected("a number");
    if (value > static_cast<uint64_t>(INT64_MAX))
      return Damaged(absl::StrCat("the number ", value, " does not fit"));
    std::vector<int64_t>& list = where_ == kShape ? shape_ : offsets_;
    if (list.size() == kMaxDimensions) return Damaged("a list has more than 64 numbers");
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (where_ == kMetadataObject) {
      metadata_bytes_ += field_.size() + value.size();
      if (metadata_bytes_ > kMaxStringBytes || header.metadata.size() == kMaxMetadata) {
        return Refused("its metadata has more than 4 MiB or 4096 entries");
      }
      if (!header.metadata.emplace(field_, std::move(value)).second) return Twice("metadata", field_);
      return true;
    }
    if (where_ != kEntry || field_ != "dtype") return Unexpected("a string");
    type_ = ElementTypeNamed(value);
    if (!type_) {
      status = absl::FailedPreconditionError(
          absl::StrCat("tensor ", Quoted(tensor_), " has element type ", Quoted(value),
                       ", which this service does not read; convert it, for example to BF16 or F32"));
    }
    return type_.has_value();
  }

  bool start_object(std::size_t) override {
    switch (where_) {
      case kOutside:
        where_ = kRoot;
        return true;
      case kRoot:
        where_ = tensor_ == kMetadata ? kMetadataObject : kEntry;
        return true;
      default:
        return Unexpected("an object");
    }
  }

  bool key(string_t& value) override {
    if (value.size() > kMaxNameBytes) {
      return Refused(
          absl::StrCat("the name ", Quoted(value), " has ", value.size(), " bytes; at most 1024 are read"));
    }
    field_ = std::move(value);
    if (where_ == kMetadataObject) return true;
    if (where_ == kRoot) {
      tensor_ = field_;
      if (header.tensors.contains(tensor_) || (tensor_ == kMetadata && metadata_seen_))
        return Twice("tensor", tensor_);
      if (tensor_ == kMetadata) metadata_seen_ = true;
      if (header.tensors.size() == kMaxTensors) return Refused("more than 65536 tensors");
      type_.reset();
      shape_.clear();
      offsets_.clear();
      seen_ = {};
      return true;
    }
    for (size_t i = 0; i < kFields.size(); ++i) {
      if (field_ != kFields[i]) continue;
      if (std::exchange(seen_[i], true))
        return Twice(absl::StrCat("field of tensor ", Quoted(tensor_)), field_);
      return true;
    }
    return Damaged(absl::StrCat("tensor ", Quoted(tensor_), " has an unknown field ", Quoted(field_)));
  }

  bool start_array(std::size_t) override {
    if (where_ == kEntry && field_ == "shape") {
      where_ = kShape;
    } else if (where_ == kEntry && field_ == "data_offsets") {
      where_ = kOffsets;
    } else {
      return Unexpected("a list");
    }
    return true;
  }
  bool end_array() override {
    where_ = kEntry;
    return true;
  }

  bool end_object() override {
    if (where_ == kEntry) {
      if (!seen_[0] || !seen_[1] || !seen_[2] || offsets_.size() != 2) {
        return Damaged(absl::StrCat("tensor ", Quoted(tensor_),
                                    " lacks its dtype, its shape or one of its two data_offsets"));
      }
      header.tensors.emplace(tensor_, SafetensorsHeader::Entry{*type_, shape_, offsets_[0], offsets_[1]});
    }
    where_ = where_ == kRoot ? kOutside : kRoot;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    return Damaged(absl::StrCat("not valid JSON at byte ", 8 + position));
  }

 private:
  enum Where { kOutside, kRoot, kMetadataObject, kEntry, kShape, kOffsets };
  static constexpr std::array<absl::string_view, 3> kFields = {"dtype", "shape", "data_offsets"};

  bool Damaged(absl::string_view what) {
    status = absl::DataLossError(absl::StrCat("the safetensors header is damaged: ", what));
    return false;
  }
  bool Refused(absl::string_view what) {
    status = absl::InvalidArgumentError(absl::StrCat("the safetensors header is refused: ", what));
    return false;
  }
  bool Unexpected(absl::string_view what) {
    return Damaged(absl::StrCat("unexpected ", what,
                                field_.empty() ? "" : absl::StrCat(" at ", Quoted(field_)),
                                tensor_.empty() ? "" : absl::StrCat(" of ", Quoted(tensor_))));
  }
  bool Twice(absl::string_view kind, absl::string_view name) {
    return Damaged(absl::StrCat(kind, " ", Quoted(name), " is declared twice"));
  }

  Where where_ = kOutside;
  std::string tensor_, field_;
  bool metadata_seen_ = false;
  size_t metadata_bytes_ = 0;
  std::array<bool, 3> seen_ = {};
  std::optional<ElementType> type_;
  std::vector<int64_t> shape_, offsets_;
};

// Bytes of a tensor, or nothing when the product leaves 63 bits.
std::optional<int64_t> ByteCount(ElementType type, const std::vector<int64_t>& shape) {
  // Zeros are set apart, so that later products (strides) are in range in whatever order they are made.
  __int128 product = ElementBytes(type);
  bool empty = false;
  for (const int64_t size : shape) {
    empty = empty || size == 0;
    product *= std::max<int64_t>(size, 1);
    if (product > INT64_MAX) return std::nullopt;
  }
  return empty ? 0 : static_cast<int64_t>(product);
}

// The parser keeps several copies of the token at hand, more in its errors: long ones are refused before it
// starts.
bool HasLongToken(absl::string_view json) {
  bool in_string = false;
  size_t length = 0;
  for (size_t i = 0; i < json.size(); ++i) {
    const char letter = json[i];
    if (letter == '"') {
      in_string = !in_string;
      length = 0;
    } else if (in_string && letter == '\\') {
      ++i;
    }
    if (!in_string && absl::string_view("[]{},: \t\r\n").find(letter) != absl::string_view::npos) length = 0;
    if (++length > (in_string ? kMaxStringBytes : kMaxNumberBytes)) return true;
  }
  return false;
}

absl::Status CheckLayout(const SafetensorsHeader& header, int64_t data_begin, int64_t file_bytes) {
  std::vector<std::pair<const std::string*, const SafetensorsHeader::Entry*>> order;
  for (const auto& [name, entry] : header.tensors) order.emplace_back(&name, &entry);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  int64_t expected = 0;
  for (const auto& [name, entry] : order) {
    if (entry->begin != expected || entry->end < entry->begin) {
      return absl::DataLossError(absl::StrCat("tensor ", Quoted(*name), " has data_offsets [", entry->begin,
                                              ", ", entry->end, "], but the data before it ends at ",
                                              expected));
    }
    const std::optional<int64_t> bytes = ByteCount(entry->type, entry->shape);
    if (!bytes || *bytes != entry->end - entry->begin) {
      return absl::DataLossError(absl::StrCat("tensor ", Quoted(*name), " has ", entry->end - entry->begin,
                                              " bytes of data, but its shape and ", ElementName(entry->type),
                                              " make ", bytes ? absl::StrCat(*bytes) : "more than 2^63"));
    }
    expected = entry->end;
  }
  if (expected != file_bytes - data_begin) {
    return absl::DataLossError(absl::StrCat("the tensors take ", expected, " bytes, but ",
                                            file_bytes - data_begin, " bytes follow the header (byte ",
                                            data_begin,
                                            "); the file is truncated or has bytes appended: copy it again"));
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<int64_t> SafetensorsHeadBytes(absl::Span<const std::byte> first) {
  if (first.size() < 9 || first[8] != std::byte{'{'}) return std::nullopt;
  uint64_t length;
  std::memcpy(&length, first.data(), sizeof(length));
  if (length > kMaxHeaderBytes) return std::nullopt;
  return 8 + static_cast<int64_t>(length);
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::Span<const std::byte> head,
                                                         int64_t file_bytes) {
  if (head.size() < 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a safetensors file: it has only ", head.size(), " bytes"));
  }
  uint64_t length;
  std::memcpy(&length, head.data(), sizeof(length));
  if (length > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a safetensors file this service reads: its header has ", length,
                     " bytes, at most 16 MiB are read"));
  }
  if (length > head.size() - 8) {
    return absl::DataLossError(absl::StrCat("the safetensors header has ", length, " bytes, but only ",
                                            head.size() - 8,
                                            " follow byte 8; the file is truncated: copy it again"));
  }
  const auto* const json = reinterpret_cast<const char*>(head.data() + 8);
  if (length == 0 || json[0] != '{') {
    return absl::InvalidArgumentError("not a safetensors file: no JSON object at byte 8");
  }
  if (HasLongToken(absl::string_view(json, length))) {
    return absl::InvalidArgumentError(
        "the safetensors header is refused: it has a string of more than 4 MiB or an endless number");
  }
  SafetensorsEvents events;
  if (!nlohmann::json::sax_parse(json, json + length, &events)) return events.status;
  SafetensorsHeader header = std::move(events.header);
  const int64_t data_begin = 8 + static_cast<int64_t>(length);
  if (absl::Status status = CheckLayout(header, data_begin, file_bytes); !status.ok()) return status;
  for (auto& [name, entry] : header.tensors) {
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  return header;
}

}  // namespace eigsvc
