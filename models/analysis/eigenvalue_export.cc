#include "models/analysis/eigenvalue_export.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "ATen/ops/full.h"
#include "ATen/ops/zeros_like.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/tensor/from_archive.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {
namespace {

constexpr char kLogMagnitude[] = "log_magnitude";
constexpr char kPhase[] = "phase";
constexpr char kNoiseFloor[] = "noise_floor";
constexpr char kCondition[] = "condition";
constexpr char kError[] = "log_magnitude_error";

// What is stored of a site.
std::vector<const char*> Quantities(const EigenvalueLayout& layout) {
  std::vector<const char*> quantities = {kLogMagnitude};
  if (layout.may_have_phase) quantities.push_back(kPhase);
  if (layout.conditioned) quantities.insert(quantities.end(), {kCondition, kError});
  return quantities;
}

at::Tensor Values(const Eigenvalues& eigenvalues, const char* quantity) {
  if (quantity == kCondition) return eigenvalues.condition.contiguous();
  if (quantity == kError) return eigenvalues.error.contiguous();
  if (quantity == kLogMagnitude) return eigenvalues.log_magnitude;
  return eigenvalues.phase.defined() ? eigenvalues.phase : at::zeros_like(eigenvalues.log_magnitude);
}

std::string SiteName(const std::pair<int, std::string>& site) {
  return absl::StrCat("layers.", site.first, ".", site.second);
}
std::string TensorName(const std::pair<int, std::string>& site, absl::string_view quantity) {
  return absl::StrCat(SiteName(site), ".", quantity);
}

// The step that index 0 of the second axis stands for.
int64_t FirstStep(const ExportProbe::Entry& entry, bool include_first_step) {
  return std::max<int64_t>(entry.first_step, include_first_step ? 0 : 1);
}

// One number where all entries share it.
nlohmann::json Multiplicities(const std::vector<int64_t>& multiplicities) {
  const bool same = std::adjacent_find(multiplicities.begin(), multiplicities.end(), std::not_equal_to<>()) ==
                    multiplicities.end();
  if (same && !multiplicities.empty()) return multiplicities[0];
  return multiplicities;
}

absl::btree_map<std::string, std::string> Metadata(const EigenvalueExport::Plan& plan) {
  nlohmann::json sites = nlohmann::json::object();
  for (const auto& [site, entry] : plan.entries) {
    nlohmann::json described = {{"unit", std::string(UnitKindName(entry.unit_kind))},
                                {"multiplicity", Multiplicities(entry.layout.multiplicities)},
                                {"constant", entry.constant},
                                {"conjugate_pairs", entry.layout.conjugate_pairs}};
    if (!entry.constant) described["first_step"] = FirstStep(entry, plan.include_first_step);
    sites[SiteName(site)] = std::move(described);
  }
  absl::btree_map<std::string, std::string> metadata = plan.metadata;
  metadata["format"] = "eigsvc eigenvalues, version 1";
  metadata["axes"] =
      "log_magnitude and phase: [row, step - first_step, unit, eigenvalue]; constant: [unit, eigenvalue]";
  if (!plan.window.IsStep()) {
    metadata["axes"] =
        "log_magnitude and phase, of the product over window_length steps: [row, window, unit, eigenvalue], "
        "window i beginning at step first_step + i window_stride; constant: [unit, eigenvalue]";
  }
  metadata["log_magnitude"] = "natural logarithm of |lambda|; -inf: lambda = 0; NaN: beyond the row's length";
  metadata["phase"] = "radians in (-pi, pi]; absent where no lambda can be other than positive real or zero";
  metadata["noise_floor"] =
      "[row], of constant ones a scalar: absolute error of log_magnitude, from the dtype and the size of "
      "what was subtracted";
  metadata["condition"] =
      "1/|y^H x| of unit left and right eigenvectors; log_magnitude_error: what log_magnitude may be off by, "
      "to first order";
  metadata["multiplicity"] =
      "state dimensions that share a stored eigenvalue, a list where the eigenvalues differ; 0: infinite; "
      "conjugate_pairs: stored once for both";
  metadata["sites"] = sites.dump();
  return metadata;
}

absl::Span<const std::byte> BytesOf(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), static_cast<size_t>(tensor.nbytes())};
}

}  // namespace

absl::Status ExportProbe::OnTransition(int layer, absl::string_view mixer, UnitKind unit_kind,
                                       Transition transition) {
  EIGSVC_ASSIGN_OR_RETURN(EigenvalueLayout layout, DescribeEigenvalues(transition, window_));
  const auto [at, first_chunk] = entries_.try_emplace({layer, std::string(mixer)});
  Entry& entry = at->second;
  if (!first_chunk) return absl::OkStatus();
  entry.unit_kind = unit_kind;
  entry.layout = std::move(layout);
  entry.constant = transition.constant;
  entry.first_step = transition.first_step;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<EigenvalueExport>> EigenvalueExport::Create(Plan plan) {
  std::vector<SafetensorsWriter::Declaration> declarations;
  // In double: the product of hostile sizes may not fit an integer, and the limit needs no last digit.
  double bytes = 8.0 * plan.rows;
  for (const auto& [site, entry] : plan.entries) {
    std::vector<int64_t> shape = {entry.units(), entry.per_unit()};
    if (!entry.constant) {
      shape.insert(shape.begin(),
                   {plan.rows, plan.window.Count(plan.steps - FirstStep(entry, plan.include_first_step))});
    }
    const ElementType type = entry.type() == at::kDouble ? ElementType::kFloat64 : ElementType::kFloat32;
    double size = static_cast<double>(ElementBytes(type));
    for (int64_t extent : shape) size *= static_cast<double>(extent);
    for (const char* quantity : Quantities(entry.layout)) {
      declarations.push_back({TensorName(site, quantity), type, shape});
      bytes += size;
    }
    std::vector<int64_t> floors;
    if (!entry.constant) floors.push_back(plan.rows);
    bytes += entry.constant ? 8.0 : 8.0 * plan.rows;
    declarations.push_back({TensorName(site, kNoiseFloor), ElementType::kFloat64, std::move(floors)});
  }
  declarations.push_back({"lengths", ElementType::kInt64, {plan.rows}});
  if (bytes > static_cast<double>(plan.max_bytes)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("exporting every eigenvalue takes ", bytes, " bytes; at most ", plan.max_bytes,
                     " are allowed: lower the number of examples or cut the sequences, or raise the limit"));
  }
  EIGSVC_ASSIGN_OR_RETURN(SafetensorsWriter writer,
                          SafetensorsWriter::Create(plan.path, declarations, Metadata(plan)));
  return std::unique_ptr<EigenvalueExport>(
      new EigenvalueExport(std::move(plan), std::move(writer), static_cast<int64_t>(bytes)));
}

absl::Status EigenvalueExport::Write(int layer, absl::string_view mixer, int64_t first_row,
                                     const Batch& batch, const HostEigenvalues& host) {
  const std::pair<int, std::string> site(layer, std::string(mixer));
  const auto found = plan_.entries.find(site);
  // The probe and this pass ran the same model; what differs is a fault of its own.
  const auto differs = [&](absl::string_view what) {
    return absl::InternalError(
        absl::StrCat(SiteName(site), " reported ", what, " the longest example did not have"));
  };
  if (found == plan_.entries.end()) return differs("transitions");
  const ExportProbe::Entry& entry = found->second;
  const at::Tensor& values = host.eigenvalues.log_magnitude;
  if (host.constant != entry.constant || host.first_step < entry.first_step ||
      values.size(2) != entry.units() || values.size(3) != entry.per_unit() ||
      values.scalar_type() != entry.type()) {
    return differs("a shape or type");
  }
  if (host.eigenvalues.phase.defined() && !entry.layout.may_have_phase) return differs("phases");

  std::vector<double>& noise_floors = noise_floors_[site];
  noise_floors.resize(entry.constant ? 1 : plan_.rows);
  const int64_t first_floor = entry.constant ? 0 : first_row;
  for (int64_t row = 0; row < (entry.constant ? 1 : batch.rows); ++row) {
    double& noise_floor = noise_floors[first_floor + row];
    noise_floor = std::max(noise_floor, host.noise_floor);
  }
  const int64_t begin = std::max(host.first_step, FirstStep(entry, plan_.include_first_step));
  const int64_t steps = host.first_step + values.size(1) - begin;
  if (steps <= 0 && !entry.constant) return absl::OkStatus();
  for (const char* quantity : Quantities(entry.layout)) {
    const std::string name = TensorName(site, quantity);
    absl::StatusOr<at::Tensor> filled = CallTorch("export", [&] {
      const at::Tensor source = Values(host.eigenvalues, quantity);
      if (entry.constant) return source;
      at::Tensor block = at::full({batch.rows, steps, entry.units(), entry.per_unit()},
                                  std::numeric_limits<double>::quiet_NaN(), values.options());
      for (int64_t row = 0; row < batch.rows; ++row) {
        const int64_t kept = std::min(WindowsIn(batch.lengths[row], entry) - begin, steps);
        if (kept <= 0) continue;
        block[row].narrow(0, 0, kept).copy_(source[row].narrow(0, begin - host.first_step, kept));
      }
      return block;
    });
    EIGSVC_RETURN_IF_ERROR(filled.status());
    EIGSVC_RETURN_IF_ERROR(entry.constant ? writer_.WriteAt(name, 0, BytesOf(*filled))
                                          : WriteBlock(name, entry, first_row, begin, *filled));
  }
  return absl::OkStatus();
}

int64_t EigenvalueExport::WindowsIn(int64_t steps, const ExportProbe::Entry& entry) const {
  return plan_.window.End(steps, FirstStep(entry, plan_.include_first_step));
}

absl::Status EigenvalueExport::EndRows(int64_t first_row, const Batch& batch) {
  // These rows may be shorter than the longest of the analysis.
  for (const auto& [site, entry] : plan_.entries) {
    const int64_t begin = WindowsIn(batch.steps, entry), end = WindowsIn(plan_.steps, entry);
    if (entry.constant || begin >= end) continue;
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor rest, CallTorch("export", [&] {
                              return at::full({batch.rows, end - begin, entry.units(), entry.per_unit()},
                                              std::numeric_limits<double>::quiet_NaN(),
                                              at::TensorOptions().dtype(entry.type()));
                            }));
    for (const char* quantity : Quantities(entry.layout)) {
      EIGSVC_RETURN_IF_ERROR(WriteBlock(TensorName(site, quantity), entry, first_row, begin, rest));
    }
  }
  for (const auto& [site, entry] : plan_.entries) {
    if (entry.constant && first_row > 0) continue;  // reported once
    const auto found = noise_floors_.find(site);
    const int64_t first = entry.constant ? 0 : first_row, count = entry.constant ? 1 : batch.rows;
    std::vector<double> floors(count);  // 0 where nothing was reported
    if (found != noise_floors_.end()) std::copy_n(found->second.begin() + first, count, floors.begin());
    EIGSVC_RETURN_IF_ERROR(writer_.WriteAt(
        TensorName(site, kNoiseFloor), first * 8,
        absl::MakeConstSpan(reinterpret_cast<const std::byte*>(floors.data()), floors.size() * 8)));
  }
  return writer_.WriteAt("lengths", first_row * 8,
                         absl::MakeConstSpan(reinterpret_cast<const std::byte*>(batch.lengths.data()),
                                             batch.lengths.size() * 8));
}

absl::Status EigenvalueExport::WriteBlock(const std::string& name, const ExportProbe::Entry& entry,
                                          int64_t first_row, int64_t first_step, const at::Tensor& block) {
  const int64_t first = FirstStep(entry, plan_.include_first_step);
  const int64_t per_row = WindowsIn(plan_.steps, entry) - first;
  const int64_t rows = block.size(0), row_bytes = static_cast<int64_t>(block.nbytes()) / rows;
  const int64_t step_bytes = row_bytes / block.size(1);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t offset = ((first_row + row) * per_row + first_step - first) * step_bytes;
    EIGSVC_RETURN_IF_ERROR(writer_.WriteAt(name, offset, BytesOf(block).subspan(row * row_bytes, row_bytes)));
  }
  return absl::OkStatus();
}

}  // namespace eigsvc
