#include "server/worker/convert.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/settings.h"
#include "models/zoo/conformance_status.h"
#include "models/zoo/registry.h"
#include "server/inspection/spectrum_summary.h"

namespace eigsvc {
namespace {

// The non-zero counts as (index, count) pairs: most of the 2688 bins of a spectrum are empty.
void Sparse(const std::vector<uint64_t>& counts, google::protobuf::RepeatedField<int32_t>* index,
            google::protobuf::RepeatedField<uint64_t>* count) {
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] == 0) continue;
    index->Add(static_cast<int32_t>(i));
    count->Add(counts[i]);
  }
}

bool IsJson(absl::string_view text) {
  return !text.empty() && Settings::Parse(absl::StrCat("{\"value\":", text, "}"), "default").ok();
}

v1::TaskInfo TaskInfoProto(const TaskEntry& task) {
  v1::TaskInfo info;
  info.set_name(std::string(task.name));
  info.set_summary(std::string(task.summary));
  info.set_metric(std::string(task.metric));
  info.set_needs_data(task.data.need == TaskData::Need::kRequired);
  for (const TaskParameter& parameter : task.parameters) {
    v1::TaskParameterInfo* out = info.add_parameters();
    out->set_name(std::string(parameter.name));
    out->set_type(std::string(parameter.type));
    out->set_meaning(std::string(parameter.meaning));
    if (parameter.type == "text") {
      out->set_default_json(nlohmann::json(std::string(parameter.fallback)).dump());
    } else if (IsJson(parameter.fallback)) {
      out->set_default_json(std::string(parameter.fallback));
    } else {  // depends on the data: words
      out->set_meaning(absl::StrCat(parameter.meaning, " (by default ", parameter.fallback, ")"));
    }
  }
  for (const TaskPreset& preset : task.presets) {
    v1::TaskPresetInfo* out = info.add_presets();
    out->set_name(std::string(preset.name));
    out->set_parameters_json(std::string(preset.parameters_json));
    out->set_meaning(std::string(preset.meaning));
  }
  if (task.data.need == TaskData::Need::kNone) return info;
  for (const absl::string_view name : task.data.names) info.mutable_data()->add_names(std::string(name));
  for (const TaskData::File& file : task.data.files) {
    v1::TaskFileInfo* out = info.mutable_data()->add_files();
    out->set_name(std::string(file.name));
    out->set_checksum(std::string(file.checksum));
    out->set_meaning(std::string(file.meaning));
  }
  info.mutable_data()->set_layout(std::string(task.data.layout));
  return info;
}

}  // namespace

v1::UnitKind UnitKindProto(UnitKind kind) {
  switch (kind) {
    case UnitKind::kHead:
      return v1::UNIT_KIND_HEAD;
    case UnitKind::kChannel:
      return v1::UNIT_KIND_CHANNEL;
    case UnitKind::kLayer:
      return v1::UNIT_KIND_LAYER;
  }
  return v1::UNIT_KIND_UNSPECIFIED;
}

v1::SpectrumBins BinsProto(const Spectrum& spectrum) {
  v1::SpectrumBins bins;
  Sparse(spectrum.below_1(), bins.mutable_below_1_index(), bins.mutable_below_1_count());
  Sparse(spectrum.beyond_1(), bins.mutable_beyond_1_index(), bins.mutable_beyond_1_count());
  Sparse(spectrum.phase_grid(), bins.mutable_phase_index(), bins.mutable_phase_count());
  bins.set_zero_count(static_cast<int64_t>(spectrum.zeros()));
  bins.set_one_count(static_cast<int64_t>(spectrum.ones()));
  return bins;
}

v1::SiteSpectrum SiteProto(const SiteSpectrum& site, const Departures& departures) {
  v1::SiteSpectrum out;
  out.mutable_site()->set_layer(site.site.layer);
  out.mutable_site()->set_mixer(site.site.mixer);
  out.mutable_site()->set_unit_kind(UnitKindProto(site.site.unit_kind));
  out.mutable_site()->set_unit(site.site.unit);
  *out.mutable_summary() = SummaryProto(site.spectrum, departures);
  *out.mutable_bins() = BinsProto(site.spectrum);
  out.mutable_multiplicities()->Add(site.multiplicities.begin(), site.multiplicities.end());
  out.set_constant(site.constant);
  out.set_conjugate_pairs(site.conjugate_pairs);
  if (site.conditioning) {
    out.mutable_conditioning()->set_max_condition(site.conditioning->max_condition);
    out.mutable_conditioning()->set_unresolved_count(static_cast<int64_t>(site.conditioning->unresolved));
    out.mutable_conditioning()->set_bits(site.conditioning->bits);
  }
  return out;
}

v1::Score ScoreProto(const Score& score) {
  v1::Score out;
  out.set_metric(score.metric);
  out.set_value(score.value);
  out.set_n(score.n);
  out.set_ci95_low(score.ci95_low);
  out.set_ci95_high(score.ci95_high);
  out.set_interval(score.interval);
  for (const auto& [name, value] : score.also) (*out.mutable_also())[name] = value;
  return out;
}

v1::Model ModelProto(const ModelDescription& description) {
  v1::Model model;
  model.set_family(description.family);
  model.set_layout(description.layout);
  model.set_layers(description.layers);
  model.set_parameters(description.parameters);
  model.set_width(description.width);
  model.set_vocab_size(description.vocab_size);
  model.set_settings_json(description.settings.ToJson());
  for (const Gauge gauge : description.conventions.gauges) model.add_gauges(std::string(GaugeName(gauge)));
  for (const Rotation rotation : description.conventions.rotations) {
    model.add_rotations(std::string(RotationName(rotation)));
  }
  for (std::string& name : DepartureNames(description.conventions.departures)) {
    model.add_departures(std::move(name));
  }
  return model;
}

v1::AnalysisProgress ProgressProto(const AnalysisProgress& progress) {
  v1::AnalysisProgress out;
  out.set_phase("run");
  out.set_examples_done(progress.examples_done);
  out.set_examples_total(progress.examples_total);
  out.set_eigenvalues(progress.eigenvalues);
  *out.mutable_score() = ScoreProto(progress.score);
  if (progress.sites != nullptr) {
    for (const SiteSpectrum& site : *progress.sites)
      *out.add_sites() = SiteProto(site, progress.convention.departures);
  }
  return out;
}

v1::AnalysisResult ResultProto(const AnalysisResult& result) {
  v1::AnalysisResult out;
  *out.mutable_score() = ScoreProto(result.score);
  for (const SiteSpectrum& site : result.sites)
    *out.add_sites() = SiteProto(site, result.convention.departures);
  out.set_examples(result.examples);
  out.set_tokens(result.tokens);
  out.set_eigenvalues(result.eigenvalues);
  out.set_redone_matrices(result.redone);
  out.set_definition(std::string(DefinitionName(result.convention.departures)));
  for (std::string& name : DepartureNames(result.convention.departures)) out.add_departures(std::move(name));
  out.set_gauge(std::string(GaugeName(result.convention.gauge)));
  out.set_rotation(std::string(RotationName(result.convention.rotation)));
  if (!result.window.IsStep()) {
    out.mutable_window()->set_length(result.window.length);
    out.mutable_window()->set_stride(result.window.stride);
  }
  *out.mutable_forward_time() = DurationProto(result.forward_time);
  *out.mutable_analysis_time() = DurationProto(result.analysis_time);
  out.set_eigenvalues_bytes(result.exported_bytes);
  out.set_batch_size(result.batch_size);
  out.set_batch_halvings(result.halvings);
  out.set_halved_batch_size(result.halved_to);
  return out;
}

v1::TrainingProgress ProgressProto(const TrainingProgress& progress) {
  v1::TrainingProgress out;
  out.set_step(progress.step);
  out.set_steps(progress.steps);
  out.set_loss(progress.loss);
  out.set_learning_rate(progress.learning_rate);
  out.set_gradient_norm(progress.gradient_norm);
  out.set_tokens_per_second(progress.tokens_per_second);
  out.set_best_score(progress.best_score);
  if (progress.evaluated) {
    *out.mutable_score() = ScoreProto(progress.score);
    out.set_score_step(progress.step);
    if (progress.sites != nullptr) {
      for (const SiteSpectrum& site : *progress.sites) *out.add_sites() = SiteProto(site);
    }
  }
  return out;
}

v1::TrainingResult ResultProto(const TrainingResult& result) {
  v1::TrainingResult out;
  out.set_steps(result.steps);
  out.set_best_step(result.best_step);
  *out.mutable_best() = ScoreProto(result.best);
  *out.mutable_last() = ScoreProto(result.last);
  out.set_final_loss(result.final_loss);
  for (const SiteSpectrum& site : result.sites) *out.add_sites() = SiteProto(site);
  *out.mutable_total_time() = DurationProto(result.total_time);
  return out;
}

worker::v1::GetCatalogResponse CatalogProto() {
  worker::v1::GetCatalogResponse catalog;
  for (const FamilyEntry& family : Families()) {
    v1::ModelFamily* out = catalog.add_models();
    out->set_name(std::string(family.name));
    out->set_summary(std::string(family.summary));
    for (const std::string& layout : family.layouts) out->add_layouts(layout);
    out->set_transition(std::string(family.transition));
    out->set_trainable(family.trainable);
    out->set_reference(std::string(family.reference));
    for (const std::string& layout : family.layouts) {
      v1::LayoutConformance* conformance = out->add_conformance();
      conformance->set_layout(layout);
      const ConformanceStatus* status = FindConformanceStatus(family.name, layout);
      if (status == nullptr) continue;
      conformance->set_cases(status->cases);
      conformance->set_references(std::string(status->references));
      conformance->set_logits_float32(status->logits_float32);
      conformance->set_logits_float64(status->logits_float64);
    }
  }
  for (const TaskEntry& task : Tasks()) *catalog.add_tasks() = TaskInfoProto(task);
  const auto by_name = [](const auto& a, const auto& b) { return a.name() < b.name(); };
  std::sort(catalog.mutable_models()->begin(), catalog.mutable_models()->end(), by_name);
  std::sort(catalog.mutable_tasks()->begin(), catalog.mutable_tasks()->end(), by_name);
  return catalog;
}

google::protobuf::Duration DurationProto(absl::Duration duration) {
  google::protobuf::Duration out;
  out.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  out.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return out;
}

google::protobuf::Timestamp TimestampProto(absl::Time time) {
  google::protobuf::Timestamp out;
  const int64_t seconds = absl::ToUnixSeconds(time);
  out.set_seconds(seconds);
  out.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
  return out;
}

}  // namespace eigsvc
