// The symmetric rank-one problem, on a host or a device: diag(d) - z zᵀ is minus the matrix diag(-d) + z zᵀ,
// whose eigenvalues are the roots of the secular equation f(λ) = 1 + Σ_j z_j²/(e_j - λ) = 0 for e = -d, one
// above each e_j and below the next. f rises from pole to pole. A root is sought as its distance from the
// nearer pole, so that no digits are lost between the two.
#pragma once

#include <cmath>
#include <limits>

#include "models/kernels/lanes.h"
#include "models/kernels/rank_one_eigenvalues.h"

namespace eigsvc::kernels {

template <typename T>
class SecularRoots {
 public:
  // `poles` ascending, `weights` z_j² >= 0 of sum `total`; `tiny`: what makes no difference.
  EIGSVC_LANES SecularRoots(const T* poles, const T* weights, int size, T total, T tiny)
      : poles_(poles), weights_(weights), size_(size), total_(total), tiny_(tiny) {}

  // The root between pole i and the next, or `total` above the last.
  EIGSVC_LANES T Root(int i) const {
    const bool last = i == size_ - 1;
    const T gap = last ? total_ : poles_[i + 1] - poles_[i];
    if (!(gap > tiny_)) return poles_[i];
    // Where an end has no weight there is no pole, and the root may be the end itself; f is +∞ at a pole,
    // such as one that is there twice.
    if (weights_[i] == 0) {
      const T f = At(i, poles_[i], 0).Value();
      if (f >= 0 && f < std::numeric_limits<T>::infinity()) return poles_[i];
    }
    if (!last && weights_[i + 1] == 0 && At(i, poles_[i + 1], 0).Value() <= 0) return poles_[i + 1];

    T t = gap / 2;
    Terms terms = At(i, poles_[i], t);
    const bool from_next = !last && terms.Value() < 0;
    const T origin = from_next ? poles_[i + 1] : poles_[i];
    T low = 0, high = gap;
    if (from_next) {
      low = -gap;
      high = 0;
      t = -t;
    }
    const T below = poles_[i] - origin, above = last ? 0 : poles_[i + 1] - origin;
    for (int round = 0; round < kMostRounds; ++round) {
      const T f = terms.Value();
      if (std::fabs(f) <= kEpsilon * terms.Uncertainty(t)) break;
      (f > 0 ? high : low) = t;
      if (high - low <= tiny_) break;
      T next = t + (last ? Step(terms, below - t) : Step(terms, below - t, above - t, low - t, high - t));
      // No step of the model, or none that helps: halve what is known.
      if (!(next > low && (next < high || (last && next == high))) || round >= kModelRounds)
        next = low + (high - low) / 2;
      if (next == t) break;
      t = next;
      terms = At(i, origin, t);
    }
    return origin + t;
  }

 private:
  static constexpr T kEpsilon = std::numeric_limits<T>::epsilon();
  // The model converges in some six rounds; halving alone would take as many as T has digits.
  static constexpr int kModelRounds = 16, kMostRounds = 100;

  // Of the poles up to i and of those above it, and their derivatives.
  struct Terms {
    T lower = 0, upper = 0, lower_slope = 0, upper_slope = 0;
    EIGSVC_LANES T Value() const { return 1 + lower + upper; }
    EIGSVC_LANES T Uncertainty(T t) const {  // of Value, in ε
      return 1 + 4 * (upper - lower) + std::fabs(t) * (lower_slope + upper_slope);
    }
  };

  // At origin + t. A weight of 0 is no pole.
  EIGSVC_LANES Terms At(int i, T origin, T t) const {
    Terms terms;
    for (int j = 0; j < size_; ++j) {
      const T weight = weights_[j];
      if (weight == 0) continue;
      const T inverse = 1 / ((poles_[j] - origin) - t), term = weight * inverse;
      (j <= i ? terms.lower : terms.upper) += term;
      (j <= i ? terms.lower_slope : terms.upper_slope) += term * inverse;
    }
    return terms;
  }

  // To the zero of c + s/(below - ·), which has f's value and slope here.
  static EIGSVC_LANES T Step(const Terms& terms, T below) {
    const T slope = terms.lower_slope, c = terms.Value() - below * slope;
    return below + slope * below * below / c;
  }

  // To the zero within (low, high) of c + s/(below - ·) + S/(above - ·), whose terms have the lower and the
  // upper sum's slopes here: the root of c x² - a x + b. NaN or out of bounds where there is none.
  static EIGSVC_LANES T Step(const Terms& terms, T below, T above, T low, T high) {
    const T f = terms.Value(), slope = terms.lower_slope + terms.upper_slope;
    const T a = (below + above) * f - below * above * slope, b = below * above * f;
    const T c = f - below * terms.lower_slope - above * terms.upper_slope;
    const T inside = a * a - 4 * b * c, root = std::sqrt(inside > 0 ? inside : 0);
    const T sum = a >= 0 ? a + root : a - root;
    const T first = 2 * b / sum, second = sum / (2 * c);
    return first > low && first < high ? first : second;
  }

  const T *poles_, *weights_;
  const int size_;
  const T total_, tiny_;
};

// One problem by all `lanes`. `scratch`: 3·order numbers that they share.
template <typename T, typename Lanes>
EIGSVC_LANES EigenOutcome SolveRankOne(const T* d, const T* z, int order, T* scratch, const Lanes& lanes,
                                       T* values) {
  T* const poles = scratch;
  T* const weights = poles + order;
  T* const unsorted = weights + order;
  T total = 0, largest = 0;
  bool bad = false;
  for (int j = lanes.rank(); j < order; j += lanes.size()) {
    unsorted[j] = -d[j];
    total += z[j] * z[j];
    const T size = std::fabs(d[j]);
    largest = size > largest ? size : largest;
    bad = bad || !(size < std::numeric_limits<T>::infinity());
  }
  total = lanes.Sum(total);
  largest = lanes.Max(largest);
  if (lanes.Any(bad || !(largest + total < std::numeric_limits<T>::infinity()))) {
    for (int j = lanes.rank(); j < order; j += lanes.size()) values[j] = std::numeric_limits<T>::quiet_NaN();
    return EigenOutcome::kNotFinite;
  }
  lanes.Sync();
  const T tiny = std::numeric_limits<T>::epsilon() / 4 * (largest + total);
  for (int j = lanes.rank(); j < order; j += lanes.size()) {
    int place = 0;
    for (int k = 0; k < order; ++k)
      place += unsorted[k] < unsorted[j] || (unsorted[k] == unsorted[j] && k < j) ? 1 : 0;
    poles[place] = unsorted[j];
    // To leave it out changes the matrix by |z_j|·‖z‖.
    const T weight = z[j] * z[j];
    weights[place] = weight * total <= tiny * tiny ? 0 : weight;
  }
  lanes.Sync();
  const SecularRoots<T> roots(poles, weights, order, total, tiny);
  for (int i = lanes.rank(); i < order; i += lanes.size()) values[order - 1 - i] = -roots.Root(i);
  return EigenOutcome::kConverged;
}

}  // namespace eigsvc::kernels
