#include "models/analysis/spectrum_tap.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>
#include <utility>

#include "ATen/ops/full.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "models/analysis/labelled.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
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

SpectrumTap::SpectrumTap(const AnalysisOptions& options, c10::Device device, const StopToken& stop,
                         EigenvalueExport* eigenvalues)
    : options_(options), device_(device), stop_(stop), export_(eigenvalues) {
  if (export_ != nullptr || !DeferredCounts::Supports(device)) return;
  if (!options.defer_counts && device.is_cpu()) return;
  deferred_.emplace(device, [this](const DeferredCounts::SiteName& name, int64_t unit, Spectrum counts) {
    const auto before = [](const SiteSpectrum& a, const DeferredCounts::SiteName& b) {
      return std::tie(a.site.layer, a.site.mixer) < std::tie(b.first, b.second);
    };
    (std::lower_bound(sites_.begin(), sites_.end(), name, before) + unit)->spectrum.Merge(std::move(counts));
  });
}

void SpectrumTap::BeginRows(int64_t first_row, const Batch* batch, CountedSteps* counted) {
  first_row_ = first_row;
  batch_ = batch;
  counted_ = counted;
  streams_.clear();
}

bool SpectrumTap::Wants(int layer, absl::string_view mixer) const {
  const std::pair<int, std::string> site(layer, mixer);
  const auto counted = counted_->find(site);
  return constants_.count(site) == 0 && (counted == counted_->end() || counted->second < batch_->steps);
}

absl::Status SpectrumTap::EndRows() {
  for (const auto& site : changing_) {
    const auto counted = counted_->find(site);
    const int64_t steps = counted == counted_->end() ? 0 : counted->second;
    // A single step may have no transition at all, which is no report.
    if (steps == batch_->steps || batch_->steps == 1) continue;
    return absl::InternalError(absl::StrCat("layer ", site.first, ", ", site.second, " reported ", steps,
                                            " of ", batch_->steps, " steps"));
  }
  return deferred_ ? deferred_->Launch() : absl::OkStatus();
}

absl::Status SpectrumTap::Collect() {
  if (!deferred_) return absl::OkStatus();
  const absl::Time start = absl::Now();
  EIGSVC_RETURN_IF_ERROR(deferred_->Collect());
  time_ += absl::Now() - start;
  return absl::OkStatus();
}

bool SpectrumTap::MissesSteps() const {
  return std::any_of(changing_.begin(), changing_.end(), [&](const std::pair<int, std::string>& name) {
    return std::none_of(sites_.begin(), sites_.end(), [&](const SiteSpectrum& site) {
      return site.site.layer == name.first && site.site.mixer == name.second &&
             site.spectrum.count() + site.spectrum.nonfinite() > 0;
    });
  });
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
  const std::pair<int, std::string> site(layer, mixer);
  const auto seen = counted_->find(site);
  const int64_t counted = seen == counted_->end() ? 0 : seen->second;
  // A constant transition is counted once, where the split begins; waiting for it costs nothing.
  if (transition.constant) {
    if (options_.first_example == 0)
      EIGSVC_RETURN_IF_ERROR(CountOnHost(layer, mixer, unit_kind, transition, counted));
    constants_.insert(site);
    return absl::OkStatus();
  }
  // Attention has no transition into step 0.
  if (transition.first_step > std::max<int64_t>(counted, 1)) {
    return absl::InternalError(absl::StrCat("layer ", layer, ", ", mixer, " reported step ",
                                            transition.first_step, " where ", counted, " was to come"));
  }
  const absl::StatusOr<EigenvalueLayout> layout = DescribeEigenvalues(transition);
  if (!layout.ok()) return Annotate(layout.status(), absl::StrCat("layer ", layer, ", ", mixer));
  const int64_t end = transition.first_step + layout->steps;
  EIGSVC_ASSIGN_OR_RETURN(const std::optional<Transition> whole, Windows(site, std::move(transition)));
  if (whole.has_value()) {
    EIGSVC_RETURN_IF_ERROR(deferred_ ? Defer(layer, mixer, unit_kind, *whole, counted)
                                     : CountOnHost(layer, mixer, unit_kind, *whole, counted));
  }
  changing_.insert(site);
  (*counted_)[site] = std::max(counted, end);
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Transition>> SpectrumTap::Windows(const std::pair<int, std::string>& site,
                                                               Transition transition) {
  origin_ = FirstStep();
  if (options_.window.IsStep()) return transition;
  return CallTorch("windows", [&] {
    WindowStream& stream = streams_.try_emplace(site, options_.window).first->second;
    std::optional<Transition> whole = stream.Add(std::move(transition), origin_);
    origin_ = stream.origin();
    return whole;
  });
}

absl::Status SpectrumTap::CountOnHost(int layer, absl::string_view mixer, UnitKind unit_kind,
                                      const Transition& transition, int64_t counted) {
  // What the device still has to do before this is forward time, not ours.
  if (!device_.is_cpu()) c10::impl::VirtualGuardImpl(device_.type()).synchronizeDevice(device_.index());
  const absl::Time start = absl::Now();
  EIGSVC_ASSIGN_OR_RETURN(
      const HostEigenvalues host,
      ComputeHostEigenvalues(transition, layer, mixer, batch_->rows, WindowsIn(batch_->steps),
                             {options_.precision, options_.window, &stop_}));
  if (export_ != nullptr) EIGSVC_RETURN_IF_ERROR(export_->Write(layer, mixer, first_row_, *batch_, host));
  EIGSVC_ASSIGN_OR_RETURN(const absl::Span<SiteSpectrum> sites,
                          Describe(layer, mixer, unit_kind, host.eigenvalues.layout, host.constant));
  EIGSVC_RETURN_IF_ERROR(Count(host, counted, sites));
  redone_ += host.eigenvalues.redone;  // as the counts: not before what a smaller batch may have to repeat
  if (host.eigenvalues.layout.conditioned) CountUnresolved(host, sites);
  time_ += absl::Now() - start;
  return absl::OkStatus();
}

absl::Status SpectrumTap::Defer(int layer, absl::string_view mixer, UnitKind unit_kind,
                                const Transition& transition, int64_t counted) {
  const absl::Time start = absl::Now();
  EIGSVC_ASSIGN_OR_RETURN(Eigenvalues values,
                          ComputeReported(transition, layer, mixer, batch_->rows, WindowsIn(batch_->steps),
                                          {options_.precision, options_.window, &stop_,
                                           /*drop_zero_phases=*/false, /*keep_operands=*/true}));
  const EigenvalueLayout& layout = values.layout;
  EIGSVC_RETURN_IF_ERROR(Describe(layer, mixer, unit_kind, layout, /*constant=*/false).status());
  CountedChunk chunk;
  EIGSVC_RETURN_IF_ERROR(CallTorchStatus("counting", [&] {
    chunk.lengths = Lengths();
    chunk.noise_floor = transition.device_noise_floor.defined() ? transition.device_noise_floor
                                                                : NoiseFloor(transition.noise_floor);
    return absl::OkStatus();
  }));
  chunk.log_magnitude = std::move(values.log_magnitude);
  chunk.factors = std::move(values.factors);
  chunk.previous = std::move(values.previous);
  chunk.phase = std::move(values.phase);
  chunk.first_step = transition.first_step;
  chunk.begin = BeginOf(transition.first_step, counted);
  chunk.weights = Weights(layout);
  EIGSVC_RETURN_IF_ERROR(deferred_->Add({layer, std::string(mixer)}, std::move(chunk)));
  redone_ += values.redone;
  for (int64_t row = 0; row < layout.rows; ++row) {
    const int64_t begin = BeginOf(transition.first_step, counted);
    eigenvalues_ += std::max<int64_t>(EndOf(row, transition.first_step, layout.steps) - begin, 0) *
                    layout.units * static_cast<int64_t>(layout.multiplicities.size());
  }
  const absl::Status launched = deferred_->LaunchIfFull();
  time_ += absl::Now() - start;
  return launched;
}

absl::StatusOr<absl::Span<SiteSpectrum>> SpectrumTap::Describe(int layer, absl::string_view mixer,
                                                               UnitKind unit_kind,
                                                               const EigenvalueLayout& layout,
                                                               bool constant) {
  const absl::Span<SiteSpectrum> sites = SitesOf(layer, mixer, unit_kind, layout.units);
  if (static_cast<int64_t>(sites.size()) != layout.units) {
    return absl::InternalError(absl::StrCat("layer ", layer, ", ", mixer, " reported ", layout.units,
                                            " units after another number before"));
  }
  for (SiteSpectrum& site : sites) {
    site.multiplicities = layout.multiplicities;
    if (AllEqual(site.multiplicities) && !site.multiplicities.empty()) site.multiplicities.resize(1);
    site.constant = constant;
    site.conjugate_pairs = layout.conjugate_pairs;
  }
  return sites;
}

int64_t SpectrumTap::BeginOf(int64_t first_step, int64_t counted) const {
  return std::max<int64_t>(WindowsIn(counted) - first_step, 0);
}

int64_t SpectrumTap::EndOf(int64_t row, int64_t first_step, int64_t steps) const {
  return std::clamp<int64_t>(WindowsIn(batch_->lengths[row]) - first_step, 0, steps);
}

at::Tensor SpectrumTap::Lengths() {
  std::vector<int64_t> lengths = batch_->lengths;
  for (int64_t& length : lengths) length = WindowsIn(length);
  if (!length_tensor_.defined() || lengths_ != lengths) {
    lengths_ = std::move(lengths);
    length_tensor_ = IndexTensor(lengths_, device_);
  }
  return length_tensor_;
}

at::Tensor SpectrumTap::NoiseFloor(double value) {
  at::Tensor& floor = noise_floors_[value];
  if (!floor.defined()) floor = at::full({}, value, at::TensorOptions().dtype(at::kDouble).device(device_));
  return floor;
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

absl::Status SpectrumTap::Count(const HostEigenvalues& host, int64_t counted,
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
    for (int64_t part = 0; part < groups * layout.rows; ++part) {
      const int64_t group = part / layout.rows, row = part % layout.rows;
      const int64_t begin = host.constant ? 0 : BeginOf(host.first_step, counted);
      const int64_t end = host.constant ? 1 : EndOf(row, host.first_step, layout.steps);
      if (end <= begin || weights.empty()) continue;
      const int64_t offset = ((unit * groups * layout.rows + part) * layout.steps + begin) * per_step;
      AddValues(log_magnitude, phase, offset, (end - begin) * per_step, host.noise_floor, weights[group],
                sites[unit].spectrum);
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
