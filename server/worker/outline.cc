#include "server/worker/outline.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "models/base/status_macros.h"
#include "models/base/utf8.h"
#include "models/tensor/device.h"
#include "server/inspection/inspection.h"
#include "server/worker/convert.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxProblemBytes = 4096;
constexpr int kMostKeys = 8;  // of either side of a comparison

// A bound of what one layer holds a step while it runs: the hidden state coming, going and normed, and what
// every matrix makes of it.
int64_t ActivationsPerStep(const ModelOutline& outline) {
  std::vector<int64_t> rows(static_cast<size_t>(outline.description.layers));
  for (const WeightSpec& spec : outline.plan) {
    if (spec.layer != WeightSpec::kOuter && spec.shape.size() == 2) rows[spec.layer] += spec.shape[0];
  }
  const auto widest = std::max_element(rows.begin(), rows.end());
  return 3 * outline.description.width + (widest == rows.end() ? 0 : *widest);
}

// "model.layers.#.mlp.up_proj.weight": a number between dots stands for any.
std::string PatternOf(absl::string_view key) {
  std::vector<absl::string_view> parts = absl::StrSplit(key, '.');
  for (absl::string_view& part : parts) {
    const bool number = !part.empty() && std::all_of(part.begin(), part.end(), absl::ascii_isdigit);
    if (number) part = "#";
  }
  return absl::StrJoin(parts, ".");
}

// A layout is told by a few keys; a fresh model of the family has them all. Leaves `nearest` as it is where
// the checkpoint lacks a layout's key in some layer alone, which patterns do not show.
void CompareWithFreshModel(const Archive& archive, v1::NearestLayout* nearest) {
  const absl::StatusOr<const FamilyEntry*> family = FindFamily(nearest->family());
  if (!family.ok()) return;
  Settings settings;
  settings.Set("layout", absl::string_view(nearest->layout()));
  const auto model = (*family)->initialize(settings, /*seed=*/0, {});
  if (!model.ok()) return;
  std::set<std::string> stored, known, missing, others;
  for (const auto& [key, tensor] : archive.tensors()) stored.insert(PatternOf(key));
  for (const WeightSpec& spec : (*model)->plan()) {
    const std::string pattern = PatternOf(spec.key);
    known.insert(pattern);
    if (spec.tied_to.empty() && stored.count(pattern) == 0) missing.insert(pattern);
  }
  std::set_difference(stored.begin(), stored.end(), known.begin(), known.end(),
                      std::inserter(others, others.end()));
  if (missing.empty() && nearest->missing_keys_size() > 0) return;
  const auto fill = [](const std::set<std::string>& keys, auto* field) {
    field->Clear();
    for (const std::string& key : keys) {
      if (field->size() < kMostKeys) field->Add(ToUtf8(key, kMaxProblemBytes));
    }
  };
  fill(missing, nearest->mutable_missing_keys());
  fill(others, nearest->mutable_other_keys());
}

}  // namespace

v1::ModelOutline OutlineProto(const ModelOutline& outline, at::ScalarType dtype, int64_t steps) {
  const ModelDescription& description = outline.description;
  v1::ModelOutline out;
  out.set_width(description.width);
  out.set_vocab_size(description.vocab_size);
  out.set_parameters(description.parameters);
  out.set_max_positions(description.max_positions);
  for (const Gauge gauge : description.conventions.gauges) out.add_gauges(std::string(GaugeName(gauge)));
  for (const Rotation rotation : description.conventions.rotations) {
    out.add_rotations(std::string(RotationName(rotation)));
  }
  for (std::string& name : DepartureNames(description.conventions.departures)) {
    out.add_departures(std::move(name));
  }
  out.set_settings_json(description.settings.ToJson());
  int64_t changing = 0, constant = 0;
  for (const std::vector<MixerDescription>& mixers : description.mixers) {
    v1::LayerOutline* layer = out.add_layers();
    for (const MixerDescription& mixer : mixers) {
      v1::MixerOutline* proto = layer->add_mixers();
      proto->set_mixer(mixer.mixer);
      proto->set_unit_kind(UnitKindProto(mixer.unit_kind));
      proto->set_units(mixer.units);
      proto->set_eigenvalues_per_unit(mixer.eigenvalues_per_unit);
      proto->set_multiplicity(mixer.multiplicity);
      proto->set_constant(mixer.constant);
      proto->set_transition(std::string(TransitionFormName(mixer.form)));
      proto->set_window(mixer.window);
      (mixer.constant ? constant : changing) += mixer.units * mixer.eigenvalues_per_unit;
    }
  }
  for (const WeightSpec& spec : outline.plan) {
    if (spec.layer == WeightSpec::kOuter || !spec.tied_to.empty()) continue;
    v1::LayerOutline* layer = out.mutable_layers(spec.layer);
    layer->set_parameters(layer->parameters() + spec.ElementCount());
  }
  out.set_eigenvalues_per_token(changing);
  out.set_constant_eigenvalues(constant);
  const PlannedBytes bytes = BytesOf(outline.plan, dtype);
  out.set_dtype(DtypeName(dtype));
  out.set_weight_bytes(bytes.All());
  out.set_streamed_weight_bytes(bytes.Streamed());
  out.set_steps(steps);
  out.set_activation_bytes(steps * ActivationsPerStep(outline) *
                           static_cast<int64_t>(c10::elementSize(dtype)));
  return out;
}

absl::StatusOr<v1::CheckpointInspection> InspectWithModel(const std::string& path,
                                                          absl::string_view settings_json,
                                                          const InspectOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const at::ScalarType dtype,
                          ParseDtype(options.dtype.empty() ? "float32" : options.dtype));
  if (options.steps < 0 || options.steps > int64_t{1} << 32) {
    return absl::InvalidArgumentError("steps must lie in [0, 2^32]");
  }
  Settings overrides;
  if (!settings_json.empty()) {
    EIGSVC_ASSIGN_OR_RETURN(overrides, Settings::Parse(settings_json, "settings_json"));
  }
  EIGSVC_ASSIGN_OR_RETURN(const Archive archive, Archive::Open(path, options.archive));
  v1::CheckpointInspection inspection = InspectArchive(archive, overrides);
  if (inspection.has_nearest()) CompareWithFreshModel(archive, inspection.mutable_nearest());
  if (!inspection.problem().empty()) return inspection;
  const absl::StatusOr<ModelOutline> outline = DescribeModel(archive, overrides);
  if (outline.ok()) {
    *inspection.mutable_model() = OutlineProto(*outline, dtype, options.steps);
  } else {
    inspection.set_problem(ToUtf8(outline.status().message(), kMaxProblemBytes));
  }
  return inspection;
}

}  // namespace eigsvc
