#include "server/inspection/spectrum_summary.h"

#include <cstdint>

namespace eigsvc {
namespace {

// The probabilities of SpectrumSummary.quantiles.
constexpr double kQuantiles[] = {0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99};

}  // namespace

v1::SpectrumSummary SummaryProto(const Spectrum& spectrum, const Departures& departures) {
  v1::SpectrumSummary summary;
  const uint64_t count = spectrum.count();
  summary.set_count(static_cast<int64_t>(count));
  summary.set_nonfinite_count(static_cast<int64_t>(spectrum.nonfinite()));
  summary.set_zero_count(static_cast<int64_t>(spectrum.zeros()));
  summary.set_mean(spectrum.Mean());
  summary.set_std(spectrum.Std());
  summary.set_noise_floor(spectrum.noise_floor());
  summary.set_min(spectrum.Min());
  summary.set_max(spectrum.Max());
  if (count == 0) return summary;
  const auto share = [count](uint64_t part) {
    return static_cast<double>(part) / static_cast<double>(count);
  };
  for (const double q : kQuantiles) summary.add_quantiles(spectrum.Quantile(q));
  for (const uint64_t bin : departures.closed_bins ? spectrum.closed_paper_bins() : spectrum.paper_bins()) {
    summary.add_paper_bins(share(bin));
  }
  if (spectrum.has_phase()) {
    for (const uint64_t bin : departures.signed_phase ? spectrum.signed_phase_bins(departures.closed_bins)
                                                      : spectrum.phase_bins()) {
      summary.add_phase_bins(share(bin));
    }
  }
  summary.set_le_0_1(share(spectrum.le_0_1()));
  summary.set_near_1(share(spectrum.near_1()));
  summary.set_above_1(share(spectrum.above_1()));
  return summary;
}

}  // namespace eigsvc
