#include "server/reader/contents_proto.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

namespace eigsvc {

worker::v1::FileContents ContentsProto(const absl::StatusOr<FileContents>& contents) {
  worker::v1::FileContents message;
  if (!contents.ok()) {
    message.set_code(contents.status().raw_code());
    message.set_message(std::string(contents.status().message()));
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
  const std::vector<uint8_t> settings = nlohmann::json::to_msgpack(contents->settings.object());
  message.set_settings(settings.data(), settings.size());
  message.set_settings_origin(contents->settings.origin());
  message.set_format(contents->format);
  return message;
}

absl::StatusOr<FileContents> ContentsFromProto(const worker::v1::FileContents& message) {
  if (message.code() != 0)
    return absl::Status(static_cast<absl::StatusCode>(message.code()), message.message());
  const absl::Status unexpected = absl::InternalError("its reader sent what no reader sends");
  FileContents contents;
  for (const worker::v1::StoredTensor& stored : message.tensors()) {
    if (stored.element_type() < 0 || stored.element_type() > static_cast<int>(ElementType::kComplex128))
      return unexpected;
    FileContents::Tensor tensor{static_cast<ElementType>(stored.element_type()),
                                {stored.shape().begin(), stored.shape().end()},
                                {stored.strides().begin(), stored.strides().end()},
                                stored.offset(),
                                stored.begin(),
                                stored.end()};
    if (!contents.tensors.emplace(stored.name(), std::move(tensor)).second) return unexpected;
  }
  nlohmann::json settings =
      nlohmann::json::from_msgpack(message.settings(), /*strict=*/true, /*allow_exceptions=*/false);
  if (!settings.is_object()) return unexpected;
  contents.settings = Settings(std::move(settings), message.settings_origin());
  contents.format = message.format();
  return contents;
}

}  // namespace eigsvc
