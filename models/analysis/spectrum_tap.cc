#include "models/analysis/spectrum_tap.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "models/analysis/host_eigenvalues.h"
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
                          ComputeHostEigenvalues(transition, layer, mixer, batch_->rows, batch_->steps));
  const int64_t row_count = host.log_magnitude.size(0), step_count = host.log_magnitude.size(1),
                units = host.log_magnitude.size(2), per_unit = host.log_magnitude.size(3);
  const std::pair<int, std::string> name(layer, mixer);
  const auto seen = counted_->find(name);
  const int64_t counted = seen == counted_->end() ? 0 : seen->second;
  // Attention has no transition into step 0.
  if (!host.constant && host.first_step > std::max<int64_t>(counted, 1)) {
    return absl::InternalError(absl::StrCat("layer ", layer, ", ", mixer, " reported step ", host.first_step,
                                            " where ", counted, " was to come"));
  }
  if (export_ != nullptr) EIGSVC_RETURN_IF_ERROR(export_->Write(layer, mixer, first_row_, *batch_, host));

  // A unit's values of a row must be contiguous for Spectrum, and complex ones double.
  at::Tensor log_magnitude, phase;
  EIGSVC_RETURN_IF_ERROR(CallTorchStatus("eigenvalues by unit", [&] {
    log_magnitude = host.log_magnitude.permute({2, 0, 1, 3}).contiguous();
    if (host.phase.defined()) {
      log_magnitude = log_magnitude.to(at::kDouble);
      phase = host.phase.permute({2, 0, 1, 3}).to(at::kDouble).contiguous();
    }
    return absl::OkStatus();
  }));

  // A stored half of a conjugate pair stands for two eigenvalues. An infinite multiplicity weighs one.
  uint64_t weight = host.conjugate_pairs ? 2 : 1;
  if (options_.weight_by_multiplicity && host.multiplicity > 0) weight *= host.multiplicity;
  const absl::Span<SiteSpectrum> sites = SitesOf(layer, mixer, unit_kind, units);
  if (static_cast<int64_t>(sites.size()) != units) {
    return absl::InternalError(absl::StrCat("layer ", layer, ", ", mixer, " reported ", units,
                                            " units after another number before"));
  }
  const int64_t first_counted = std::max<int64_t>(counted, options_.include_first_step ? 0 : 1);
  for (int64_t unit = 0; unit < units; ++unit) {
    EIGSVC_RETURN_IF_ERROR(stop_.Check());
    sites[unit].multiplicity = host.multiplicity;
    sites[unit].constant = host.constant;
    for (int64_t row = 0; row < row_count; ++row) {
      const int64_t begin = host.constant ? 0 : std::max<int64_t>(first_counted - host.first_step, 0);
      const int64_t end =
          host.constant ? 1 : std::clamp<int64_t>(batch_->lengths[row] - host.first_step, 0, step_count);
      if (end <= begin) continue;
      const int64_t offset = ((unit * row_count + row) * step_count + begin) * per_unit;
      AddValues(log_magnitude, phase, offset, (end - begin) * per_unit, host.noise_floor, weight,
                sites[unit].spectrum);
      eigenvalues_ += (end - begin) * per_unit;
    }
  }
  (host.constant ? constants_ : changing_).insert(name);
  if (!host.constant) (*counted_)[name] = std::max(counted, host.first_step + step_count);
  time_ += absl::Now() - start;
  return absl::OkStatus();
}

}  // namespace eigsvc
