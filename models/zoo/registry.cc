#include "models/zoo/registry.h"

#include <cstddef>
#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "models/archive/safetensors.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/tensor/from_archive.h"
#include "models/tensor/torch_call.h"
#include "models/zoo/families.h"

namespace eigsvc {
namespace {

// As it is written: on the CPU, dense, in the checkpoint's orientation.
absl::StatusOr<at::Tensor> StoredForm(const WeightSpec& spec, const ModelWeights& weights) {
  const Weights& place = spec.layer == WeightSpec::kOuter ? weights.outer : weights.layers[spec.layer];
  return CallTorch(spec.key, [&] {
    const at::Tensor tensor = place[spec.name].detach();
    return (spec.transposed ? tensor.t() : tensor).to(c10::kCPU).contiguous();
  });
}

}  // namespace

absl::Span<const FamilyEntry> Families() {
  static const auto* const families = new std::vector<FamilyEntry>{
#define EIGSVC_FAMILY(NAME) NAME##Family(),
#include "models/archive/families.inc"
  };
  return *families;
}

absl::StatusOr<const FamilyEntry*> FindFamily(absl::string_view name) {
  std::vector<std::string> known;
  for (const FamilyEntry& family : Families()) {
    if (family.name == name) return &family;
    known.emplace_back(family.name);
  }
  return UnknownName("model", name, known);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadModel(const Archive& archive,
                                                               const Settings& overrides,
                                                               const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const Detection detection, Detect(archive, overrides));
  EIGSVC_ASSIGN_OR_RETURN(const FamilyEntry* family, FindFamily(detection.family));
  return family->load(archive, detection, options);
}

absl::StatusOr<ModelOutline> DescribeModel(const Archive& archive, const Settings& overrides) {
  LoadOptions options;
  options.residency = Residency::kNone;
  EIGSVC_ASSIGN_OR_RETURN(const auto model, LoadModel(archive, overrides, options));
  return ModelOutline{model->description(), model->plan()};
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeModel(const FamilyEntry& family,
                                                                     const Settings& settings, uint64_t seed,
                                                                     const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string layout, settings.TextOr("layout", family.layouts.front()));
  if (!absl::c_linear_search(family.layouts, layout)) {
    return UnknownName(absl::StrCat("layout of ", family.name), layout, family.layouts);
  }
  return family.initialize(settings, seed, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeTwin(const SequenceModel& model, uint64_t seed,
                                                                    const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const FamilyEntry* family, FindFamily(model.description().family));
  return InitializeModel(*family, model.description().settings, seed, options);
}

absl::Status SaveModel(const SequenceModel& model, const ModelWeights& weights, const Settings& extra,
                       const std::string& path, const absl::btree_map<std::string, at::Tensor>& beside) {
  std::vector<SafetensorsWriter::Declaration> declarations;
  std::vector<const WeightSpec*> written;
  for (const WeightSpec& spec : model.plan()) {
    if (!spec.tied_to.empty()) continue;
    const Weights& place = spec.layer == WeightSpec::kOuter ? weights.outer : weights.layers[spec.layer];
    EIGSVC_ASSIGN_OR_RETURN(const ElementType type, ElementTypeOf(place[spec.name]));
    declarations.push_back({spec.key, type, spec.StoredShape()});
    written.push_back(&spec);
  }
  for (const auto& [name, tensor] : beside) {
    EIGSVC_ASSIGN_OR_RETURN(const ElementType type, ElementTypeOf(tensor));
    declarations.push_back({name, type, tensor.sizes().vec()});
  }
  const absl::btree_map<std::string, std::string> metadata = {
      {"config", model.description().settings.MergedWith(extra).ToJson()},
      {"format", "pt"},  // what transformers asks for
  };
  EIGSVC_ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::Create(path, declarations, metadata));
  const auto append = [&](const at::Tensor& tensor) {
    return writer.Append(
        {static_cast<const std::byte*>(tensor.const_data_ptr()), static_cast<size_t>(tensor.nbytes())});
  };
  for (const WeightSpec* spec : written) {
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor tensor, StoredForm(*spec, weights));
    EIGSVC_RETURN_IF_ERROR(append(tensor));
  }
  for (const auto& [name, tensor] : beside) {
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor host,
                            CallTorch(name, [&] { return tensor.detach().to(c10::kCPU).contiguous(); }));
    EIGSVC_RETURN_IF_ERROR(append(host));
  }
  return writer.Finish();
}

}  // namespace eigsvc
