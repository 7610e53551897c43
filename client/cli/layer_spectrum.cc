#include "client/cli/layer_spectrum.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

namespace eigsvc::cli {
namespace {

// value * 2^bits as two's complement; 0 for NaN. Sums of log|λ| stay far below the 128 bits' range.
Spectrum::Fixed128 ToFixed(double value, int bits) {
  if (!std::isfinite(value)) return {};
  constexpr double kLimit = 0x1p126;
  const auto scaled = static_cast<__int128>(std::clamp(std::ldexp(value, bits), -kLimit, kLimit));
  return {static_cast<int64_t>(scaled >> 64), static_cast<uint64_t>(scaled)};
}

uint64_t CountOf(double share, int64_t count) {
  if (!(share > 0)) return 0;
  return static_cast<uint64_t>(
      std::llround(std::min(share, 1.0) * static_cast<double>(std::max<int64_t>(count, 0))));
}

template <typename Indices, typename Counts>
void FillBins(const Indices& indices, const Counts& counts, std::vector<uint64_t>* bins) {
  for (int i = 0; i < std::min(indices.size(), counts.size()); ++i) {
    if (indices[i] >= 0 && static_cast<size_t>(indices[i]) < bins->size()) (*bins)[indices[i]] += counts[i];
  }
}

}  // namespace

Spectrum ToSpectrum(const v1::SiteSpectrum& site) {
  const v1::SpectrumSummary& summary = site.summary();
  const v1::SpectrumBins& bins = site.bins();
  Spectrum::Parts parts = Spectrum().parts();
  parts.below_1.resize(Spectrum::kBins);
  parts.beyond_1.resize(Spectrum::kBins);
  FillBins(bins.below_1_index(), bins.below_1_count(), &parts.below_1);
  FillBins(bins.beyond_1_index(), bins.beyond_1_count(), &parts.beyond_1);
  parts.zeros = std::max<int64_t>(bins.zero_count(), 0);
  parts.ones = std::max<int64_t>(bins.one_count(), 0);
  parts.nonfinite = std::max<int64_t>(summary.nonfinite_count(), 0);
  for (int i = 0; i < std::min(summary.paper_bins_size(), Spectrum::kPaperBins); ++i) {
    parts.paper_bins[i] = CountOf(summary.paper_bins(i), summary.count());
  }
  parts.le_0_1 = CountOf(summary.le_0_1(), summary.count());
  parts.near_1 = CountOf(summary.near_1(), summary.count());
  parts.above_1 = CountOf(summary.above_1(), summary.count());
  parts.moment_count = std::max<int64_t>(summary.count() - summary.zero_count(), 0);
  const double n = static_cast<double>(parts.moment_count);
  parts.sum = ToFixed(summary.mean() * n, 64);
  parts.sum_of_squares = ToFixed((summary.std() * summary.std() + summary.mean() * summary.mean()) * n, 56);
  parts.noise_floor = summary.noise_floor();
  if (summary.count() > 0) {
    parts.min = summary.min();
    parts.max = summary.max();
  }
  return Spectrum(std::move(parts));
}

std::vector<LayerSpectrum> MergeLayers(const google::protobuf::RepeatedPtrField<v1::SiteSpectrum>& sites) {
  std::map<std::pair<int, std::string>, LayerSpectrum> layers;
  for (const v1::SiteSpectrum& site : sites) {
    LayerSpectrum& layer = layers[{site.site().layer(), site.site().mixer()}];
    layer.layer = site.site().layer();
    layer.mixer = site.site().mixer();
    layer.unit_kind = site.site().unit_kind();
    ++layer.units;
    layer.spectrum.Merge(ToSpectrum(site));
  }
  std::vector<LayerSpectrum> merged;
  for (auto& [key, layer] : layers) merged.push_back(std::move(layer));
  return merged;
}

std::string UnitName(v1::UnitKind kind) {
  switch (kind) {
    case v1::UNIT_KIND_CHANNEL:
      return "channel";
    case v1::UNIT_KIND_LAYER:
      return "layer";
    default:
      return "head";
  }
}

}  // namespace eigsvc::cli
