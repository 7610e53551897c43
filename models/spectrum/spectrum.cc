#include "models/spectrum/spectrum.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <utility>

#include "models/spectrum/edges.h"

namespace eigsvc {
namespace {

using spectrum_edges::kClasses;
using spectrum_edges::kFirstPositiveClass;
using spectrum_edges::kInfinity;
using spectrum_edges::kMomentLimit;

__extension__ typedef __int128 Int128;

constexpr int kMantissaShift = 23 - 5;  // keeps 5 mantissa bits: 32 bins an octave
static_assert(1 << 5 == Spectrum::kBinsPerOctave);
constexpr int kFirstBin = (127 + Spectrum::kMinExponent) * Spectrum::kBinsPerOctave;

constexpr float BinLowFloat(int bin) {
  return std::bit_cast<float>(static_cast<uint32_t>(bin + kFirstBin) << kMantissaShift);
}

// [λ > 1][bin]: the class of the bin's lower end.
constexpr auto kClassOfBin = [] {
  std::array<std::array<uint8_t, Spectrum::kBins>, 2> table{};
  for (const bool above : {false, true}) {
    int lower_class = above ? kFirstPositiveClass : 0;
    for (int bin = 0; bin < Spectrum::kBins; ++bin) {
      if (BinLowFloat(bin) > spectrum_edges::kNextEdge[lower_class]) lower_class += 2;
      table[above][bin] = static_cast<uint8_t>(lower_class);
    }
  }
  return table;
}();

// A value's contribution to a moment is rounded to fixed point on its own, so sums are exact from there and
// the order of addition cannot matter. The number is split in two 64-bit words that add up without carry for
// a block's length.
constexpr int kBlock = 1 << 14;

// The integer nearest to `value`, |value| < 2^51, from the bits of a sum: conversions are slow on a device,
// and on a host they do not vectorise.
constexpr double kNearest = 0x1.8p52;
int64_t Nearest(double value) {
  return std::bit_cast<int64_t>(value + kNearest) - std::bit_cast<int64_t>(kNearest);
}

struct FixedSum {
  int64_t high = 0, low = 0;
  // REQUIRES |value| < 2^48 / high_scale.
  void Add(double value, double high_scale, double high_unit, double low_scale) {
    const double whole = (value * high_scale + kNearest) - kNearest;
    high += Nearest(value * high_scale);
    low += Nearest((value - whole * high_unit) * low_scale);
  }
  Int128 Total(int shift) const { return Int128{high} * (Int128{1} << shift) + low; }
};

Int128 ToInt128(const Spectrum::Fixed128& value) {
  using Unsigned = unsigned __int128;
  return static_cast<Int128>((static_cast<Unsigned>(static_cast<uint64_t>(value.high)) << 64) | value.low);
}

void Accumulate(Int128 amount, Spectrum::Fixed128& sum) {
  using Unsigned = unsigned __int128;  // wraps instead of overflowing
  const Unsigned total = static_cast<Unsigned>(ToInt128(sum)) + static_cast<Unsigned>(amount);
  sum.high = static_cast<int64_t>(static_cast<uint64_t>(total >> 64));
  sum.low = static_cast<uint64_t>(total);
}

Int128 Times(Int128 amount, uint64_t weight) {
  using Unsigned = unsigned __int128;
  return static_cast<Int128>(static_cast<Unsigned>(amount) * weight);
}

int OctaveOf(double log_magnitude) {
  if (log_magnitude == 0) return 0;
  return std::clamp(std::ilogb(log_magnitude), Spectrum::kMinExponent, Spectrum::kMaxExponent - 1) -
         Spectrum::kMinExponent;
}

constexpr size_t kPhaseGridSize =
    2 * static_cast<size_t>(Spectrum::kMaxExponent - Spectrum::kMinExponent) * Spectrum::kPhaseBins;

// A table that was not made yet is one of zeros.
void AddEach(const std::vector<uint64_t>& from, std::vector<uint64_t>& to) {
  if (to.empty()) {
    to = from;
    return;
  }
  for (size_t i = 0; i < from.size(); ++i) to[i] += from[i];
}

const std::vector<uint64_t>& OrZeros(const std::vector<uint64_t>& table) {
  static const auto* const zeros = new std::vector<uint64_t>(Spectrum::kBins);
  return table.empty() ? *zeros : table;
}

}  // namespace

Spectrum::Spectrum() : Spectrum(Parts()) {}

Spectrum::Spectrum(Parts parts) : parts_(std::move(parts)) {
  for (auto* table : {&parts_.below_1, &parts_.beyond_1}) {
    if (table->size() != kBins) table->clear();
  }
  if (parts_.below_1.empty() != parts_.beyond_1.empty()) MakeTables();
  if (parts_.phase_grid.size() != kPhaseGridSize) parts_.phase_grid.clear();
}

void Spectrum::MakeTables() {
  for (auto* table : {&parts_.below_1, &parts_.beyond_1}) {
    if (table->empty()) table->assign(kBins, 0);
  }
}

template <typename Real>
void Spectrum::AddValues(absl::Span<const Real> values, double noise_floor, uint64_t weight) {
  if (!values.empty()) MakeTables();
  uint64_t* const bins[2] = {parts_.below_1.data(), parts_.beyond_1.data()};
  const double above_1_edge = std::max(1e-6, noise_floor);
  parts_.noise_floor = std::max(parts_.noise_floor, noise_floor);
  while (!values.empty()) {
    const absl::Span<const Real> block = values.first(std::min<size_t>(values.size(), kBlock));
    values.remove_prefix(block.size());
    std::array<uint64_t, kClasses> classes{};
    uint64_t zeros = 0, ones = 0, nonfinite = 0, above_1 = 0;
    FixedSum sum, squares;
    double low = parts_.min, high = parts_.max;
    for (const Real value : block) {
      const double x = value;
      const double size = std::abs(x);
      if (!(size > 0 && size < kInfinity)) [[unlikely]] {
        ones += x == 0;
        zeros += x == -kInfinity;
        nonfinite += !(x <= 0) && x != 0;
        continue;
      }
      const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(x));
      const int bin =
          std::clamp(static_cast<int>((bits & 0x7fffffffu) >> kMantissaShift) - kFirstBin, 0, kBins - 1);
      const int above = 1 - static_cast<int>(bits >> 31);
      bins[above][bin] += weight;
      const int lower_class = kClassOfBin[above][bin];
      const double edge = spectrum_edges::kNextEdge[lower_class];
      ++classes[lower_class + (size >= edge) + (size > edge)];
      above_1 += x > above_1_edge;
      low = std::min(low, x);
      high = std::max(high, x);
      const double limited = std::clamp(x, -kMomentLimit, kMomentLimit);
      sum.Add(limited, 0x1p31, 0x1p-31, 0x1p64);
      squares.Add(limited * limited, 0x1p15, 0x1p-15, 0x1p56);
    }
    if (ones != 0) {
      low = std::min(low, 0.0);
      high = std::max(high, 0.0);
    }
    parts_.min = low;
    parts_.max = high;
    parts_.ones += ones * weight;
    parts_.zeros += zeros * weight;
    parts_.nonfinite += nonfinite * weight;
    parts_.above_1 += above_1 * weight;
    parts_.near_1 += ones * weight;
    parts_.le_0_1 += zeros * weight;
    parts_.paper_bins[3] += ones * weight;
    parts_.paper_bins[0] += zeros * weight;
    uint64_t moment_count = ones;
    for (int c = 0; c < kClasses; ++c) {
      const uint64_t amount = classes[c] * weight;
      parts_.paper_bins[spectrum_edges::kPaperBinOfClass[c]] += amount;
      if (spectrum_edges::kNear1[c]) parts_.near_1 += amount;
      if (spectrum_edges::kAtMost0_1[c]) parts_.le_0_1 += amount;
      moment_count += classes[c];
    }
    for (size_t e = 0; e < parts_.on_paper_edge.size(); ++e)
      parts_.on_paper_edge[e] += classes[spectrum_edges::kClassOnPaperEdge[e]] * weight;
    parts_.moment_count += moment_count * weight;
    Accumulate(Times(sum.Total(64 - 31), weight), parts_.sum);
    Accumulate(Times(squares.Total(56 - 15), weight), parts_.sum_of_squares);
  }
}

void Spectrum::Add(absl::Span<const float> log_magnitude, double noise_floor, uint64_t weight) {
  AddValues(log_magnitude, noise_floor, weight);
}

void Spectrum::Add(absl::Span<const double> log_magnitude, double noise_floor, uint64_t weight) {
  AddValues(log_magnitude, noise_floor, weight);
}

void Spectrum::AddComplex(absl::Span<const double> log_magnitude, absl::Span<const double> phase,
                          double noise_floor, uint64_t weight) {
  if (!log_magnitude.empty()) MakeTables();
  for (size_t begin = 0; begin < log_magnitude.size();) {
    // A run of finite phases, then those that are not.
    size_t end = begin;
    for (; end < log_magnitude.size() && std::isfinite(phase[end]); ++end) {
      // Zero has no phase, whatever was given.
      if (std::isfinite(log_magnitude[end])) AddPhase(log_magnitude[end], phase[end], weight);
    }
    AddValues(log_magnitude.subspan(begin, end - begin), noise_floor, weight);
    for (; end < log_magnitude.size() && !std::isfinite(phase[end]); ++end) parts_.nonfinite += weight;
    begin = end;
  }
}

void Spectrum::AddPhase(double log_magnitude, double phase, uint64_t weight) {
  double wrapped = std::remainder(phase, 2 * std::numbers::pi);  // [-π, π]; on the grid π belongs to -π
  if (wrapped == 0) return;
  const double size = std::abs(wrapped);
  const bool negative = wrapped < 0 && size < std::numbers::pi;
  int phase_class = 0;
  for (const int degrees : {1, 10, 45, 90}) {
    const double edge = degrees * spectrum_edges::kDegree;
    phase_class += (size >= edge) + (size > edge);
  }
  parts_.phase_classes[negative][phase_class] += weight;
  if (parts_.phase_grid.empty()) parts_.phase_grid.assign(kPhaseGridSize, 0);
  const int bin =
      static_cast<int>(std::floor((wrapped / std::numbers::pi + 1) * (kPhaseBins / 2.0))) % kPhaseBins;
  const int side = log_magnitude > 0 ? 1 : 0;
  const int octaves = kMaxExponent - kMinExponent;
  parts_.phase_grid[(side * octaves + OctaveOf(log_magnitude)) * kPhaseBins + bin] += weight;
}

void Spectrum::Merge(Spectrum&& other) {
  if (count() + nonfinite() > 0) return Merge(static_cast<const Spectrum&>(other));
  const double noise_floor = std::max(parts_.noise_floor, other.parts_.noise_floor);
  parts_ = std::move(other.parts_);
  parts_.noise_floor = noise_floor;
}

void Spectrum::Merge(const Spectrum& other) {
  const Parts& from = other.parts_;
  AddEach(from.below_1, parts_.below_1);
  AddEach(from.beyond_1, parts_.beyond_1);
  AddEach(from.phase_grid, parts_.phase_grid);
  for (int b = 0; b < kPaperBins; ++b) parts_.paper_bins[b] += from.paper_bins[b];
  for (size_t e = 0; e < from.on_paper_edge.size(); ++e) parts_.on_paper_edge[e] += from.on_paper_edge[e];
  for (size_t s = 0; s < 2; ++s) {
    for (size_t c = 0; c < from.phase_classes[s].size(); ++c)
      parts_.phase_classes[s][c] += from.phase_classes[s][c];
  }
  parts_.zeros += from.zeros;
  parts_.ones += from.ones;
  parts_.nonfinite += from.nonfinite;
  parts_.le_0_1 += from.le_0_1;
  parts_.near_1 += from.near_1;
  parts_.above_1 += from.above_1;
  parts_.moment_count += from.moment_count;
  Accumulate(ToInt128(from.sum), parts_.sum);
  Accumulate(ToInt128(from.sum_of_squares), parts_.sum_of_squares);
  parts_.noise_floor = std::max(parts_.noise_floor, from.noise_floor);
  parts_.min = std::min(parts_.min, from.min);
  parts_.max = std::max(parts_.max, from.max);
}

uint64_t Spectrum::count() const { return parts_.moment_count + parts_.zeros; }
uint64_t Spectrum::nonfinite() const { return parts_.nonfinite; }
uint64_t Spectrum::zeros() const { return parts_.zeros; }
uint64_t Spectrum::ones() const { return parts_.ones; }
const std::array<uint64_t, Spectrum::kPaperBins>& Spectrum::paper_bins() const { return parts_.paper_bins; }
std::array<uint64_t, Spectrum::kPaperBins> Spectrum::closed_paper_bins() const {
  std::array<uint64_t, kPaperBins> bins = parts_.paper_bins;
  // The side of each edge that the half-open bins leave out; the last bin is open.
  bins[0] += parts_.on_paper_edge[0];
  bins[1] += parts_.on_paper_edge[1];
  bins[2] += parts_.on_paper_edge[2];
  bins[4] += parts_.ones;
  bins[5] += parts_.on_paper_edge[3];
  return bins;
}

bool Spectrum::has_phase() const { return !parts_.phase_grid.empty(); }

std::array<uint64_t, Spectrum::kPhaseEdgeBins> Spectrum::phase_bins() const {
  std::array<uint64_t, kPhaseEdgeBins> bins{};
  bins[0] = count();  // less all that have a phase
  for (const auto& classes : parts_.phase_classes) {
    for (size_t c = 0; c < classes.size(); ++c) {
      bins[0] -= classes[c];
      bins[c / 2] += classes[c];  // a value on an edge is in the bin below it
    }
  }
  return bins;
}

std::array<uint64_t, Spectrum::kPhaseEdgeBins> Spectrum::signed_phase_bins(bool closed) const {
  std::array<uint64_t, kPhaseEdgeBins> bins = phase_bins();
  const auto& [positive, negative] = parts_.phase_classes;
  for (size_t c = 0; c < positive.size(); ++c) {
    bins[c / 2] -= negative[c];
    if (closed && c % 2 == 1) bins[c / 2 + 1] += positive[c];
  }
  return bins;
}

double Spectrum::DistanceToEdge(double log_magnitude) {
  double distance = kInfinity;
  for (const double edge : spectrum_edges::kEdgeLogs)
    distance = std::min(distance, std::abs(log_magnitude - edge));
  return distance;
}

uint64_t Spectrum::le_0_1() const { return parts_.le_0_1; }
uint64_t Spectrum::near_1() const { return parts_.near_1; }
uint64_t Spectrum::above_1() const { return parts_.above_1; }
double Spectrum::noise_floor() const { return parts_.noise_floor; }
const std::vector<uint64_t>& Spectrum::below_1() const { return OrZeros(parts_.below_1); }
const std::vector<uint64_t>& Spectrum::beyond_1() const { return OrZeros(parts_.beyond_1); }
const std::vector<uint64_t>& Spectrum::phase_grid() const { return parts_.phase_grid; }
Spectrum::Fixed128 Spectrum::sum() const { return parts_.sum; }
Spectrum::Fixed128 Spectrum::sum_of_squares() const { return parts_.sum_of_squares; }

double Spectrum::Mean() const {
  const long double sum = std::ldexp(static_cast<long double>(ToInt128(parts_.sum)), -64);
  return static_cast<double>(sum / static_cast<long double>(parts_.moment_count));
}

double Spectrum::Std() const {
  const long double n = static_cast<long double>(parts_.moment_count);
  const long double mean = std::ldexp(static_cast<long double>(ToInt128(parts_.sum)), -64) / n;
  const long double square = std::ldexp(static_cast<long double>(ToInt128(parts_.sum_of_squares)), -56) / n;
  if (parts_.moment_count == 0) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(std::sqrt(std::max(0.0L, square - mean * mean)));
}

double Spectrum::Min() const {
  if (parts_.zeros != 0) return -kInfinity;
  return parts_.moment_count == 0 ? std::numeric_limits<double>::quiet_NaN() : parts_.min;
}

double Spectrum::Max() const {
  if (parts_.moment_count != 0) return parts_.max;
  return parts_.zeros != 0 ? -kInfinity : std::numeric_limits<double>::quiet_NaN();
}

double Spectrum::Quantile(double q) const {
  if (count() == 0) return std::numeric_limits<double>::quiet_NaN();
  // In double, where 0.05 · 180 rounds to 9 as meant; the exact product of the double next to 0.05 is above
  // it.
  const double exact_rank = std::ceil(q * static_cast<double>(count()));
  uint64_t rank = std::clamp<uint64_t>(static_cast<uint64_t>(exact_rank), 1, count());
  const auto within = [this](double value) { return std::min(std::max(value, parts_.min), parts_.max); };
  const auto midpoint = [](int bin) { return (BinLow(bin) + BinLow(bin + 1)) / 2; };
  if (rank <= parts_.zeros) return -kInfinity;
  rank -= parts_.zeros;
  for (int bin = kBins - 1; bin >= 0; --bin) {
    if (rank <= below_1()[bin]) return within(-midpoint(bin));
    rank -= below_1()[bin];
  }
  if (rank <= parts_.ones) return 0;
  rank -= parts_.ones;
  for (int bin = 0; bin < kBins; ++bin) {
    if (rank <= beyond_1()[bin]) return within(midpoint(bin));
    rank -= beyond_1()[bin];
  }
  return parts_.max;
}

double Spectrum::BinLow(int bin) { return BinLowFloat(bin); }

}  // namespace eigsvc
