// Spectrum: a mergeable distribution of eigenvalues. Filled apart and merged in any order, the result has the
// same bits: counts are integers, moments are 128-bit fixed point.
//
// Goals: exact counts at the declared edges; quantiles of log|λ| within 1.6 %; 10^9 values without loss.
// Non-goals: the values themselves (see --export), per-step order.
// The stored quantity is log|λ| and arg λ, never λ (softmax ratios reach e^{±hundreds}, 1-λ goes to 1e-8).
// Thread rule: one writer at a time; const access may be shared.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/types/span.h"

namespace eigsvc {

class Spectrum {
 public:
  // Bins of |log|λ|| from the bits of its float32 value: 32 bins an octave (width 1/32 of the octave's start)
  // over [2^-30, 2^12); smaller non-zero values fall in the first bin, larger finite ones in the last.
  static constexpr int kBinsPerOctave = 32;
  static constexpr int kMinExponent = -30;
  static constexpr int kMaxExponent = 12;
  static constexpr int kBins = (kMaxExponent - kMinExponent) * kBinsPerOctave;
  // Radius x phase grid of the eigenvalues that are not positive real (phase other than 0), kept only once
  // there is one: radius by octave of |log|λ|| and sign, phase in 64 equal bins over [-π, π). |λ| = 1 lies in
  // the first octave of the side λ < 1. Positive real eigenvalues are the rest of each octave of below_1()
  // and beyond_1().
  static constexpr int kPhaseBins = 64;
  // The paper's bins of |λ| (arXiv 2510.09379): [0,.1) [.1,.5) [.5,.9) [.9,1] (1,10] (10,100] (100,∞).
  static constexpr int kPaperBins = 7;
  // Bins of |arg λ| in degrees: [0,1] (1,10] (10,45] (45,90] (90,180].
  static constexpr int kPhaseEdgeBins = 5;

  Spectrum();

  // Positive real eigenvalues, given as log|λ|; -inf stands for λ = 0. NaN and +inf are counted apart. A
  // float counts as the double of the same value; the edges are what log(0.1), log(0.5), ... are in double,
  // and a value equal to one of them is on the edge. `noise_floor`: absolute error of log|λ|; above_1 counts
  // log|λ| > max(1e-6, noise_floor). `weight` >= 1 counts each value that often (multiplicity).
  void Add(absl::Span<const float> log_magnitude, double noise_floor, uint64_t weight = 1);
  void Add(absl::Span<const double> log_magnitude, double noise_floor, uint64_t weight = 1);
  // Complex eigenvalues; phase in radians, any range, wrapped to (-π, π]; NaN or infinite phases are
  // non-finite eigenvalues. REQUIRES equal lengths.
  void AddComplex(absl::Span<const double> log_magnitude, absl::Span<const double> phase, double noise_floor,
                  uint64_t weight = 1);

  void Merge(const Spectrum& other);
  void Merge(Spectrum&& other);  // keeps its tables where nothing was counted here

  uint64_t count() const;      // all eigenvalues but the non-finite ones; atoms at 0 included
  uint64_t nonfinite() const;  // NaN and +inf
  uint64_t zeros() const;      // λ = 0
  uint64_t ones() const;       // |λ| = 1 exactly
  const std::array<uint64_t, kPaperBins>& paper_bins() const;
  // The same of bins closed at both ends, as the analysis released with arXiv 2510.09379 counts: a value on
  // an edge is in both.
  std::array<uint64_t, kPaperBins> closed_paper_bins() const;
  // Whether an eigenvalue other than positive real was added.
  bool has_phase() const;
  std::array<uint64_t, kPhaseEdgeBins> phase_bins() const;
  // The same of the signed phase, as the released analysis counts: negative phases are in no bin. `closed`: a
  // value on an edge is in both bins.
  std::array<uint64_t, kPhaseEdgeBins> signed_phase_bins(bool closed) const;
  uint64_t le_0_1() const;     // |λ| <= 0.1
  uint64_t near_1() const;     // |1-|λ|| <= 0.01
  uint64_t above_1() const;    // log|λ| > max(1e-6, noise floor)
  double noise_floor() const;  // the largest that was given

  // Over finite, non-zero λ, of log|λ|; NaN when there is none. std is the population's.
  double Mean() const;
  double Std() const;
  double Min() const;  // exact; -inf when a λ = 0 was added
  double Max() const;
  // Quantile of log|λ| over count(): the midpoint of the bin of rank ceil(q·count), exact at atoms; clamped
  // to [Min(), Max()]; NaN when empty. REQUIRES 0 <= q <= 1.
  double Quantile(double q) const;

  // |log|λ| - log e| of the nearest edge e that something is counted at: 0.1, 0.5, 0.9, 0.99, 1, 1.01, 10,
  // 100.
  static double DistanceToEdge(double log_magnitude);

  // Bin edges in log|λ|, for drawing: bin b of the negative (λ < 1) or positive side covers |log|λ|| in
  // [BinLow(b), BinLow(b+1)).
  static double BinLow(int bin);
  const std::vector<uint64_t>& below_1() const;   // kBins counts, log|λ| < 0
  const std::vector<uint64_t>& beyond_1() const;  // kBins counts, log|λ| > 0
  // Empty, or 2 * (kMaxExponent - kMinExponent) * kPhaseBins counts: [sign (0: λ<1)][octave][phase].
  const std::vector<uint64_t>& phase_grid() const;

  // Fixed-point moments, for transport: Σ log|λ| in units of 2^-64 and Σ (log|λ|)² in units of 2^-56, as
  // (high, low) 64-bit halves of two's complement. |log|λ|| above 2^16 enters as 2^16, so that 2^39 values
  // fit.
  struct Fixed128 {
    int64_t high = 0;
    uint64_t low = 0;
    bool operator==(const Fixed128&) const = default;
  };
  Fixed128 sum() const;
  Fixed128 sum_of_squares() const;
  // Rebuilds a spectrum from transported parts, for Merge across processes; see server/worker/convert.cc.
  // Tables of a wrong length are taken as zeros; those of a spectrum with nothing in it are empty.
  struct Parts {
    std::vector<uint64_t> below_1, beyond_1, phase_grid;
    std::array<uint64_t, kPaperBins> paper_bins{};
    std::array<uint64_t, 4> on_paper_edge{};  // |λ| = 0.1, 0.5, 0.9, 10; |λ| = 1 are `ones`
    // Phases other than 0 by sign (0: positive) and size: below 1°, on it, up to 10°, on it, 45°, 90°, the
    // rest.
    std::array<std::array<uint64_t, 9>, 2> phase_classes{};
    uint64_t zeros = 0, ones = 0, nonfinite = 0, le_0_1 = 0, near_1 = 0, above_1 = 0, moment_count = 0;
    Fixed128 sum, sum_of_squares;
    double noise_floor = 0;
    double min = std::numeric_limits<double>::infinity();  // of finite log|λ|; so max
    double max = -std::numeric_limits<double>::infinity();
    bool operator==(const Parts&) const = default;
  };
  const Parts& parts() const { return parts_; }
  explicit Spectrum(Parts parts);

 private:
  template <typename Real>
  void AddValues(absl::Span<const Real> values, double noise_floor, uint64_t weight);
  void MakeTables();
  void AddPhase(double log_magnitude, double phase, uint64_t weight);
  Parts parts_;
};

}  // namespace eigsvc
