#include "models/analysis/spectrum_tap.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "models/base/status_macros.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {
namespace {

// Adds one unit's eigenvalues of one row: `count` values from `offset`.
void AddValues(const at::Tensor& log_magnitude, const at::Tensor& phase, int64_t offset, int64_t count,
               double noise_floor, uint64_t weight, Spectrum& spectrum) {
  const size_t size = static_cast<size_t>(count);
  if (phase.defined()) {
    spectrum.AddComplex({log_magnitude.const_data_ptr<double>() + offset, size},
                        {phase.const_data_ptr<double>() + offset, size}, noise_floor, weight);
  } else if (log_magnitude.scalar_type() == at::kDouble) {
    spectrum.Add(absl::MakeConstSpan(log_magnitude.const_data_ptr<double>() + offset, size), noise_floor,
                 weight);
  } else {
    spectrum.Add(absl::MakeConstSpan(log_magnitude.const_data_ptr<float>() + offset, size), noise_floor,
                 weight);
  }
}

template <typename T>
bool AllEqual(const std::vector<T>& values) {
  return std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) == values.end();
}

}  // namespace

void SpectrumTap::BeginRows(int64_t first_row, const Batch* batch, CountedSteps* counted) {
  first_row_ = first_row;
  batch_ = batch;
  counted_ = counted;
}

bool SpectrumTap::Wants(int layer, absl::string_view mixer) const {
  const std::pair<int, std::string> site(layer, mixer);
  const auto counted = counted_->find(site);
  return constants_.count(site) == 0 && (counted == counted_->end() || counted->second < batch_->steps);
}

absl::Status SpectrumTap::EndRows() const {
  for (const auto& site : changing_) {
    const auto counted = counted_->find(site);
    const int64_t steps = counted == counted_->end() ? 0 : counted->second;
    // A single step may have no transition at all, which is no report.
    if (steps == batch_->steps || batch_->steps == 1) continue;
    return absl::InternalError(absl::StrCat("layer ", site.first, ", ", site.second, " reported ", steps,
                                            " of ", batch_->steps, " steps"));
  }
  return absl::OkStatus();
}

absl::Span<SiteSpectrum> SpectrumTap::SitesOf(int layer, absl::string_view mixer, UnitKind unit_kind,
                                              int64_t units) {
  const auto before = [](const SiteSpectrum& a, const Site& b) { return a.site < b; };
  Site site{layer, std::string(mixer), unit_kind, 0};
  auto at = std::lower_bound(sites_.begin(), sites_.end(), site, before);
  if (at == sites_.end() || at->site != site) {
    std::vector<SiteSpectrum> fresh(units);
    for (int64_t unit = 0; unit < units; ++unit) {
      fresh[unit].site = site;
      fresh[unit].site.unit = static_cast<int>(unit);
    }
    at = sites_.insert(at, std::make_move_iterator(fresh.begin()), std::make_move_iterator(fresh.end()));
  }
  const auto end = std::find_if(at, sites_.end(), [&](const SiteSpectrum& other) {
    return other.site.layer != layer || other.site.mixer != mixer;
  });
  if (end - at != units) return {};
  return absl::MakeSpan(&*at, static_cast<size_t>(units));
}

absl::Status SpectrumTap::OnTransition(int layer, absl::string_view mixer, UnitKind unit_kind,
                                       Transition transition) {
  // A model may report without asking; what is counted stays counted once.
  if (!Wants(layer, mixer)) return absl::OkStatus();
  // What the device still has to do before this is forward time, not ours.
  if (!device_.is_cpu()) c10::impl::VirtualGuardImpl(device_.type()).synchronizeDevice(device_.index());
  const absl::Time start = absl::Now();
  EIGSVC_ASSIGN_OR_RETURN(const HostEigenvalues host,
                          ComputeHostEigenvalues(transition, layer, mixer, batch_->rows, batch_->steps,
                                                 {options_.precision, &stop_}));
  const std::pair<int, std::string> name(layer, mixer);
  const auto seen = counted_->find(name);
  const int64_t counted = seen == counted_->end() ? 0 : seen->second;
  // Attention has no transition into step 0.
  if (!host.constant && host.first_step > std::max<int64_t>(counted, 1)) {
    return absl::InternalError(absl::StrCat("layer ", layer, ", ", mixer, " reported step ", host.first_step,
                                            " where ", counted, " was to come"));
  }
  if (export_ != nullptr) EIGSVC_RETURN_IF_ERROR(export_->Write(layer, mixer, first_row_, *batch_, host));

  const absl::Span<SiteSpectrum> sites = SitesOf(layer, mixer, unit_kind, host.eigenvalues.layout.units);
  if (static_cast<int64_t>(sites.size()) != host.eigenvalues.layout.units) {
    return absl::InternalError(absl::StrCat("layer ", layer, ", ", mixer, " reported ",
                                            host.eigenvalues.layout.units,
                                            " units after another number before"));
  }
  EIGSVC_RETURN_IF_ERROR(Count(host, std::max<int64_t>(counted, options_.include_first_step ? 0 : 1), sites));
  if (host.eigenvalues.layout.conditioned) CountUnresolved(host, sites);
  (host.constant ? constants_ : changing_).insert(name);
  if (!host.constant) (*counted_)[name] = std::max(counted, host.first_step + host.eigenvalues.layout.steps);
  time_ += absl::Now() - start;
  return absl::OkStatus();
}

std::vector<uint64_t> SpectrumTap::Weights(const EigenvalueLayout& layout) const {
  std::vector<uint64_t> weights;
  for (const int64_t multiplicity : layout.multiplicities) {
    // A stored half of a conjugate pair stands for two eigenvalues. An infinite multiplicity weighs one.
    const bool weigh = options_.weight_by_multiplicity && multiplicity > 0;
    weights.push_back((layout.conjugate_pairs ? 2 : 1) * (weigh ? static_cast<uint64_t>(multiplicity) : 1));
  }
  return weights;
}

absl::Status SpectrumTap::Count(const HostEigenvalues& host, int64_t first_counted,
                                absl::Span<SiteSpectrum> sites) {
  const EigenvalueLayout& layout = host.eigenvalues.layout;
  const std::vector<uint64_t> weights = Weights(layout);
  // A unit's values of a row and of one weight must be contiguous for Spectrum, and complex ones double.
  const bool one_weight = AllEqual(weights);
  const int64_t groups = one_weight ? 1 : static_cast<int64_t>(weights.size());
  const int64_t per_step = one_weight ? static_cast<int64_t>(weights.size()) : 1;
  at::Tensor log_magnitude, phase;
  EIGSVC_RETURN_IF_ERROR(CallTorchStatus("eigenvalues by unit", [&] {
    const auto by_unit = [&](const at::Tensor& x) {  // [U,groups,B,T,per_step]
      return (one_weight ? x.permute({2, 0, 1, 3}) : x.permute({2, 3, 0, 1})).contiguous();
    };
    log_magnitude = by_unit(host.eigenvalues.log_magnitude);
    if (host.eigenvalues.phase.defined()) {
      log_magnitude = log_magnitude.to(at::kDouble);
      phase = by_unit(host.eigenvalues.phase).to(at::kDouble);
    }
    return absl::OkStatus();
  }));
  for (int64_t unit = 0; unit < layout.units; ++unit) {
    EIGSVC_RETURN_IF_ERROR(stop_.Check());
    SiteSpectrum& site = sites[unit];
    site.multiplicities = layout.multiplicities;
    if (AllEqual(site.multiplicities) && !site.multiplicities.empty()) site.multiplicities.resize(1);
    site.constant = host.constant;
    site.conjugate_pairs = layout.conjugate_pairs;
    for (int64_t part = 0; part < groups * layout.rows; ++part) {
      const int64_t group = part / layout.rows, row = part % layout.rows;
      const int64_t begin = host.constant ? 0 : std::max<int64_t>(first_counted - host.first_step, 0);
      const int64_t end =
          host.constant ? 1 : std::clamp<int64_t>(batch_->lengths[row] - host.first_step, 0, layout.steps);
      if (end <= begin || weights.empty()) continue;
      const int64_t offset = ((unit * groups * layout.rows + part) * layout.steps + begin) * per_step;
      AddValues(log_magnitude, phase, offset, (end - begin) * per_step, host.noise_floor, weights[group],
                site.spectrum);
      eigenvalues_ += (end - begin) * per_step;
    }
  }
  return absl::OkStatus();
}

void SpectrumTap::CountUnresolved(const HostEigenvalues& host, absl::Span<SiteSpectrum> sites) const {
  const Eigenvalues& values = host.eigenvalues;
  const std::vector<uint64_t> weights = Weights(values.layout);
  const at::Tensor log_magnitude = values.log_magnitude.contiguous(),
                   condition = values.condition.contiguous(), error = values.error.contiguous();
  size_t i = 0;
  for (SiteSpectrum& site : sites) {
    Conditioning& conditioning = site.conditioning.emplace();
    conditioning.bits = values.bits;
    for (const uint64_t weight : weights) {
      const double size = log_magnitude.const_data_ptr<double>()[i];
      conditioning.max_condition =
          std::max(conditioning.max_condition, condition.const_data_ptr<double>()[i]);
      if (std::isfinite(size) && !(error.const_data_ptr<double>()[i] < Spectrum::DistanceToEdge(size)))
        conditioning.unresolved += weight;
      ++i;
    }
  }
}

}  // namespace eigsvc
