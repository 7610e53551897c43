#include "server/inspection/inspection.h"

#include "models/archive/detect.h"
#include "models/base/status_macros.h"
#include "models/base/utf8.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxNameBytes = 1024, kMaxProblemBytes = 4096;

}  // namespace

absl::StatusOr<v1::CheckpointInspection> InspectCheckpoint(const std::string& path,
                                                           absl::string_view settings_json,
                                                           const ArchiveOptions& options) {
  Settings overrides;
  if (!settings_json.empty()) {
    EIGSVC_ASSIGN_OR_RETURN(overrides, Settings::Parse(settings_json, "settings_json"));
  }
  EIGSVC_ASSIGN_OR_RETURN(const Archive archive, Archive::Open(path, options));
  return InspectArchive(archive, overrides);
}

v1::CheckpointInspection InspectArchive(const Archive& archive, const Settings& overrides) {
  v1::CheckpointInspection inspection;
  inspection.set_sha256(archive.sha256());
  inspection.set_size_bytes(archive.file_bytes());
  inspection.set_format(std::string(archive.format()));
  inspection.set_parameters(archive.ParameterCount());
  inspection.set_settings_json(archive.settings().ToJson());
  for (const auto& [name, tensor] : archive.tensors()) {
    v1::TensorInfo* info = inspection.add_tensors();
    info->set_name(ToUtf8(name, kMaxNameBytes));  // a pickle's keys are any bytes
    info->set_element_type(std::string(ElementName(tensor.type)));
    info->mutable_shape()->Assign(tensor.shape.begin(), tensor.shape.end());
    ++(*inspection.mutable_element_types())[info->element_type()];
  }
  if (const absl::StatusOr<Detection> detection = Detect(archive, overrides); detection.ok()) {
    inspection.set_family(detection->family);
    inspection.set_layout(detection->layout);
    inspection.set_layers(detection->layers);
  } else {
    inspection.set_problem(ToUtf8(detection.status().message(), kMaxProblemBytes));
    const std::optional<NearestLayout> nearest = FindNearestLayout(archive);
    if (!nearest) return inspection;
    inspection.mutable_nearest()->set_family(nearest->family);
    inspection.mutable_nearest()->set_layout(nearest->layout);
    for (const std::string& key : nearest->missing) inspection.mutable_nearest()->add_missing_keys(key);
    for (const std::string& key : nearest->others) {
      inspection.mutable_nearest()->add_other_keys(ToUtf8(key, kMaxNameBytes));
    }
  }
  return inspection;
}

}  // namespace eigsvc
