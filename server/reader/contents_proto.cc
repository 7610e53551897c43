#include "server/reader/contents_proto.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "models/base/status_macros.h"
#include "models/base/utf8.h"

namespace eigsvc {
namespace {

constexpr int kMaxTensors = 65536;
constexpr uint32_t kMaxTensorBytes =
    4096;  // a name of 1024 bytes, 64 sizes and strides of 10 bytes, and the rest
constexpr uint32_t kMaxTextBytes = 4096;
constexpr uint32_t kMaxSettingsBytes = uint32_t{16} << 20;

absl::Status Unexpected() { return absl::InternalError("its reader sent what no reader sends"); }

// Texts in place of the numbers that JSON lacks.
void ReplaceNonfinite(nlohmann::json& value) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    const double number = value.get<double>();
    value = std::isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity";
  } else if (value.is_structured()) {
    for (nlohmann::json& item : value) ReplaceNonfinite(item);
  }
}

// Whether the parts of a message are as few and as small as those of a reader: looked at before it is parsed,
// since parsed tensors take many times the bytes that they are sent in.
bool IsModest(absl::string_view answer) {
  using google::protobuf::internal::WireFormatLite;
  google::protobuf::io::CodedInputStream in(reinterpret_cast<const uint8_t*>(answer.data()),
                                            static_cast<int>(answer.size()));
  int tensors = 0;
  while (const uint32_t tag = in.ReadTag()) {
    uint32_t size = 0;
    if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      if (!WireFormatLite::SkipField(&in, tag)) return false;
      continue;
    }
    if (!in.ReadVarint32(&size) || !in.Skip(static_cast<int>(size))) return false;
    switch (WireFormatLite::GetTagFieldNumber(tag)) {
      case worker::v1::FileContents::kTensorsFieldNumber:
        if (++tensors > kMaxTensors || size > kMaxTensorBytes) return false;
        break;
      case worker::v1::FileContents::kSettingsJsonFieldNumber:
        if (size > kMaxSettingsBytes) return false;
        break;
      default:
        if (size > kMaxTextBytes) return false;
    }
  }
  return in.ConsumedEntireMessage();
}

absl::Status ErrorOf(const worker::v1::FileContents& message) {
  switch (const auto code = static_cast<absl::StatusCode>(message.code())) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kDataLoss:
      return absl::Status(code, ToUtf8(message.message(), kMaxTextBytes));
    default:
      return Unexpected();
  }
}

}  // namespace

worker::v1::FileContents ContentsProto(const absl::StatusOr<FileContents>& contents) {
  worker::v1::FileContents message;
  if (!contents.ok()) {
    message.set_code(contents.status().raw_code());
    message.set_message(ToUtf8(contents.status().message(), kMaxTextBytes));
    return message;
  }
  for (const auto& [name, tensor] : contents->tensors) {
    worker::v1::StoredTensor& stored = *message.add_tensors();
    stored.set_name(name);
    stored.set_element_type(static_cast<int>(tensor.type));
    stored.mutable_shape()->Assign(tensor.shape.begin(), tensor.shape.end());
    stored.mutable_strides()->Assign(tensor.strides.begin(), tensor.strides.end());
    stored.set_offset(tensor.offset);
    stored.set_begin(tensor.begin);
    stored.set_end(tensor.end);
  }
  nlohmann::json settings = contents->settings.object();
  ReplaceNonfinite(settings);
  message.set_settings_json(settings.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  message.set_format(contents->format);
  return message;
}

absl::StatusOr<FileContents> ContentsFromAnswer(absl::string_view answer, const std::string& name,
                                                std::string& unconfined) {
  worker::v1::FileContents message;
  if (!IsModest(answer) || !message.ParseFromArray(answer.data(), static_cast<int>(answer.size())))
    return Unexpected();
  unconfined = ToUtf8(message.unconfined(), kMaxTextBytes);
  if (message.code() != 0) return ErrorOf(message);
  FileContents contents;
  contents.format = message.format();
  const bool pickled = contents.format == "torch-zip";
  if (!pickled && contents.format != "safetensors") return Unexpected();
  for (const worker::v1::StoredTensor& stored : message.tensors()) {
    if (stored.element_type() < 0 || stored.element_type() > static_cast<int>(ElementType::kComplex128))
      return Unexpected();
    FileContents::Tensor tensor{static_cast<ElementType>(stored.element_type()),
                                {stored.shape().begin(), stored.shape().end()},
                                {stored.strides().begin(), stored.strides().end()},
                                stored.offset(),
                                stored.begin(),
                                stored.end()};
    if (!contents.tensors.emplace(stored.name(), std::move(tensor)).second) return Unexpected();
  }
  const absl::StatusOr<Settings> settings = Settings::Parse(
      message.settings_json(), absl::StrCat(pickled ? "the pickle of " : "the metadata of ", name));
  if (!settings.ok()) return Unexpected();
  contents.settings = *settings;
  return contents;
}

}  // namespace eigsvc
