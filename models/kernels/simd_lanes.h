// The algorithm of hessenberg_qr.h for as many matrices at once as a SIMD register has lanes: element (i,j)
// of all of them is one register, and every lane follows its own course through masks. Compiled once an
// instruction set (simd_*.cc), so everything here has internal linkage and no standard header's code is
// instantiated: a function that two sets share would run the wrong one.
#pragma once

#include <cstdint>
#include <cstring>

#include "models/kernels/simd_solvers.h"

namespace eigsvc::kernels {
namespace {

template <typename T>
struct LaneTraits;
template <>
struct LaneTraits<float> {
  using Integer = int32_t;
  static constexpr float kEpsilon = 1.1920929e-07f, kTiny = 1.17549435e-38f;
};
template <>
struct LaneTraits<double> {
  using Integer = int64_t;
  static constexpr double kEpsilon = 2.220446049250313e-16, kTiny = 2.2250738585072014e-308;
};

template <typename T, int kBytes>
class SimdQr {
  using Integer = typename LaneTraits<T>::Integer;
  typedef T Vector __attribute__((vector_size(kBytes)));
  typedef Integer Mask __attribute__((vector_size(kBytes)));  // all ones: true; also small integers a lane
  static constexpr int kLanes = kBytes / static_cast<int>(sizeof(T));
  static constexpr T kEpsilon = LaneTraits<T>::kEpsilon, kTiny = LaneTraits<T>::kTiny;
  static constexpr T kSmallest = kTiny / kEpsilon * T(128);

 public:
  // `work`: WorkElements(order) elements, aligned to kBytes.
  SimdQr(int order, T* work)
      : n_(order), ld_(order + 1), a_(reinterpret_cast<Vector*>(work)), v_(a_ + ld_ * ld_) {}
  static constexpr int64_t WorkElements(int order) {
    return (static_cast<int64_t>(order + 1) * (order + 1) + order + 1) * kLanes;
  }

  // `count` matrices from `first` on; those beyond it repeat the last and are dropped.
  void Run(const EigenProblem<T>& problem, int64_t first, int count) {
    Load(problem, first, count);
    Vector scale;
    const Mask finite = Normalise(scale);
    Balance();
    ToHessenberg();
    Iterate(problem, first, count, scale, finite);
  }

 private:
  Vector& At(int i, int j) { return a_[i * ld_ + j]; }
  static Vector Splat(T x) { return x - Vector{}; }
  static Vector Abs(Vector x) { return x < 0 ? -x : x; }
  static Vector Largest(Vector a, Vector b) { return a > b ? a : b; }
  static Vector Least(Vector a, Vector b) { return a > b ? b : a; }
  static Vector CopySign(Vector magnitude, Vector sign) { return sign < 0 ? -magnitude : magnitude; }
  static Vector Root(Vector x) {
    Vector result;
    for (int lane = 0; lane < kLanes; ++lane) {
      if constexpr (sizeof(T) == 4) {
        result[lane] = __builtin_sqrtf(x[lane]);
      } else {
        result[lane] = __builtin_sqrt(x[lane]);
      }
    }
    return result;
  }
  static bool Any(Mask mask) {
    Integer any = 0;
    for (int lane = 0; lane < kLanes; ++lane) any |= mask[lane];
    return any != 0;
  }
  static int Most(Mask values) {
    Integer most = values[0];
    for (int lane = 1; lane < kLanes; ++lane) most = values[lane] > most ? values[lane] : most;
    return static_cast<int>(most);
  }
  static int Fewest(Mask values) {
    Integer fewest = values[0];
    for (int lane = 1; lane < kLanes; ++lane) fewest = values[lane] < fewest ? values[lane] : fewest;
    return static_cast<int>(fewest);
  }

  // A row and a column of zeros at the end: a three-row reflector at the last pair reads them.
  void Load(const EigenProblem<T>& problem, int64_t first, int count) {
    const int64_t size = static_cast<int64_t>(n_) * n_;
    for (int i = 0; i <= n_; ++i) {
      for (int j = 0; j <= n_; ++j) {
        Vector x{};
        if (i < n_ && j < n_) {
          for (int lane = 0; lane < kLanes; ++lane) {
            const int64_t index = first + (lane < count ? lane : count - 1);
            x[lane] = problem.matrices[index * size + i * n_ + j];
          }
        }
        At(i, j) = x;
      }
    }
  }

  // Where a matrix is not finite its lane becomes zero.
  Mask Normalise(Vector& scale) {
    Vector largest{};
    Mask finite = largest == largest;
    for (int i = 0; i < n_; ++i) {
      for (int j = 0; j < n_; ++j) {
        const Vector x = At(i, j);
        finite &= (x - x) == 0;
        largest = Largest(largest, Abs(x));
      }
    }
    Vector inverse = Splat(1);
    scale = Splat(1);
    for (int lane = 0; lane < kLanes; ++lane) {
      if (finite[lane] == 0 || largest[lane] == 0) continue;
      while (largest[lane] * inverse[lane] >= 2) inverse[lane] /= 2, scale[lane] *= 2;
      while (largest[lane] * inverse[lane] < 1) inverse[lane] *= 2, scale[lane] /= 2;
    }
    for (int i = 0; i < n_; ++i) {
      for (int j = 0; j < n_; ++j) At(i, j) = finite ? At(i, j) * inverse : Vector{};
    }
    return finite;
  }

  void Balance() {
    constexpr int kMaxSweeps = 8, kMaxDoublings = 20;
    for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
      bool changed = false;
      for (int i = 0; i < n_; ++i) {
        Vector column = -Abs(At(i, i)), row = column;
        for (int k = 0; k < n_; ++k) {
          column += Abs(At(k, i));
          row += Abs(At(i, k));
        }
        const Vector before = column + row;
        Vector factor = Splat(1);
        for (int step = 0; step < kMaxDoublings; ++step) {
          const Mask up = column < row / 2, down = column >= row * 2;
          if (!Any(up | down)) break;
          factor = up ? factor * 2 : down ? factor / 2 : factor;
          const Vector c = up ? column * 2 : down ? column / 2 : column;
          row = up ? row / 2 : down ? row * 2 : row;
          column = c;
        }
        const Mask worth = (factor != 1) & (column > 0) & (row > 0) & (column + row < T(0.95) * before);
        if (!Any(worth)) continue;
        changed = true;
        factor = worth ? factor : Splat(1);
        const Vector inverse = 1 / factor, diagonal = At(i, i);
        for (int k = 0; k < n_; ++k) At(k, i) *= factor;
        for (int k = 0; k < n_; ++k) At(i, k) *= inverse;
        At(i, i) = diagonal;
      }
      if (!changed) return;
    }
  }

  // t = 0, an identity, where there is nothing to do.
  static Vector SafeRatio(Vector a, Vector b, Mask ok) { return (ok ? a : Vector{}) / (ok ? b : Splat(1)); }

  void ToHessenberg() {
    for (int k = 0; k + 2 < n_; ++k) {
      Vector rest{};
      for (int i = k + 2; i < n_; ++i) rest += At(i, k) * At(i, k);
      const Mask needed = rest > 0;
      if (!Any(needed)) continue;
      const Vector x0 = At(k + 1, k);
      const Vector beta = needed ? -CopySign(Root(x0 * x0 + rest), x0) : x0;
      const Vector t = SafeRatio(beta - x0, beta, needed), scale = SafeRatio(Splat(1), x0 - beta, needed);
      v_[k + 1] = Splat(1);
      for (int i = k + 2; i < n_; ++i) {
        v_[i] = At(i, k) * scale;
        At(i, k) = Vector{};
      }
      At(k + 1, k) = beta;
      for (int j = k + 1; j < n_; ++j) {
        Vector sum{};
        for (int i = k + 1; i < n_; ++i) sum += At(i, j) * v_[i];
        sum *= t;
        for (int i = k + 1; i < n_; ++i) At(i, j) -= sum * v_[i];
      }
      for (int i = 0; i < n_; ++i) {
        Vector sum{};
        for (int j = k + 1; j < n_; ++j) sum += At(i, j) * v_[j];
        sum *= t;
        for (int j = k + 1; j < n_; ++j) At(i, j) -= sum * v_[j];
      }
    }
  }

  Mask BlockStarts(Mask high, int most) {
    Mask start{};
    for (int k = 1; k <= most; ++k) {
      const Vector below = Abs(At(k, k - 1)), d0 = At(k - 1, k - 1), d1 = At(k, k);
      Vector around = Abs(d0) + Abs(d1);
      const Vector beside = Abs(At(k - 1, k >= 2 ? k - 2 : n_)) + Abs(At(k + 1, k));
      around = around == 0 ? beside : around;
      const Vector above = Abs(At(k - 1, k)), difference = Abs(d0 - d1);
      const Vector ab = Largest(below, above), ba = Least(below, above);
      const Vector aa = Largest(Abs(d1), difference), bb = Least(Abs(d1), difference);
      const Vector sum = aa + ab, safe = sum > 0 ? sum : Splat(1);
      const Mask small = (below <= kSmallest) |
                         ((below <= kEpsilon * around) &
                          (ba * (ab / safe) <= Largest(Splat(kSmallest), kEpsilon * (bb * (aa / safe)))));
      start = (small & (k <= high)) ? k - Mask{} : start;
    }
    return start;
  }

  // Element (row + di, row + dj) of each lane's own row.
  Vector Gather(Mask row, int di, int dj) {
    Vector result;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int i = static_cast<int>(row[lane]);
      result[lane] = i + di < 0 || i + dj < 0 ? T(0) : At(i + di, i + dj)[lane];
    }
    return result;
  }

  // One double-shift sweep of each `active` lane's block [low, high], of three rows or more.
  void Sweep(Mask active, Mask low, Mask high, Mask iteration) {
    const Vector a = Gather(high, -1, -1), b = Gather(high, -1, 0), c = Gather(high, 0, -1),
                 d = Gather(high, 0, 0);
    // Both shifts by their sum and product, so that no root is needed where they are a conjugate pair.
    Vector sum = a + d, product = a * d - b * c;
    const Vector half = (a - d) / 2, discriminant = half * half + b * c;
    const Mask real = discriminant >= 0;
    if (Any(real & active)) {  // two real shifts: the one nearer to the corner, twice
      const Vector z = half + CopySign(Root(real ? discriminant : Vector{}), half);
      const Vector r1 = d + z, r2 = d - SafeRatio(b * c, z, z != 0);
      const Vector nearer = Abs(r1 - d) <= Abs(r2 - d) ? r1 : r2;
      sum = real ? nearer * 2 : sum;
      product = real ? nearer * nearer : product;
    }
    const Mask top = (iteration % 20) == 10, bottom = (iteration % 20) == 0;
    if (Any((top | bottom) & active)) {  // exceptional shifts (xLAHQR's)
      const Vector st = Abs(Gather(low, 1, 0)) + Abs(Gather(low, 2, 1)),
                   sb = Abs(c) + Abs(Gather(high, -1, -2));
      const Vector s = top ? st : sb, centre = T(0.75) * s + (top ? Gather(low, 0, 0) : d);
      sum = top | bottom ? centre * 2 : sum;
      product = top | bottom ? centre * centre + T(0.4375) * s * s : product;
    }
    const Vector h00 = Gather(low, 0, 0), h10 = Gather(low, 1, 0), h01 = Gather(low, 0, 1),
                 h11 = Gather(low, 1, 1), h21 = Gather(low, 2, 1);
    // The first column of H² - sum·H + product, over h10.
    Vector y0 = h00 * (h00 - sum) + product + h01 * h10, y1 = h10 * (h00 + h11 - sum), y2 = h10 * h21;
    const Vector total = Abs(y0) + Abs(y1) + Abs(y2);
    y0 = SafeRatio(y0, total, total > 0);
    y1 = SafeRatio(y1, total, total > 0);
    y2 = SafeRatio(y2, total, total > 0);

    const int begin = Fewest(active ? low : n_ - Mask{}), end = Most(active ? high : Mask{});
    for (int k = begin; k < end; ++k) {
      const Mask first = low == k, inside = active & (low <= k) & (k < high);
      Vector x0 = y0, x1 = y1, x2 = y2;
      if (k > 0) {
        x0 = first ? y0 : At(k, k - 1);
        x1 = first ? y1 : At(k + 1, k - 1);
        x2 = first ? y2 : k + 2 <= n_ ? At(k + 2, k - 1) : Vector{};
      }
      x2 = k + 2 <= high ? x2 : Vector{};
      const Vector rest = x1 * x1 + x2 * x2;
      const Mask needed = inside & (rest > 0);
      const Vector length = Root(x0 * x0 + rest), reach = Abs(x0) + length;
      const Vector scale = CopySign(SafeRatio(Splat(1), reach, needed), x0);
      const Vector v1 = x1 * scale, v2 = x2 * scale, square = v1 * v1 + v2 * v2, t = 2 / (1 + square);
      const Vector t1 = t * v1, t2 = t * v2, diagonal = -t * square;
      if (k > 0) {
        const Mask chase = needed & (k > low);
        At(k, k - 1) = chase ? CopySign(length, x0) : At(k, k - 1);
        At(k + 1, k - 1) = chase ? Vector{} : At(k + 1, k - 1);
        if (k + 2 <= n_) At(k + 2, k - 1) = (chase & (k + 2 <= high)) ? Vector{} : At(k + 2, k - 1);
      }
      // Beyond a lane's own block these do no harm: only diagonal blocks have a say in eigenvalues.
      const int third = k + 2 <= n_ ? k + 2 : n_;
      Vector* const p0 = &At(k, 0);
      Vector* const p1 = &At(k + 1, 0);
      Vector* const p2 = &At(third, 0);
      for (int j = k; j <= end; ++j) {
        const Vector old = p0[j], turned = old + (t1 * p1[j] + t2 * p2[j] + diagonal * old), s = old + turned;
        p0[j] = turned;
        p1[j] -= v1 * s;
        p2[j] -= v2 * s;
      }
      const int last = k + 3 < end ? k + 3 : end;
      for (int i = begin; i <= last; ++i) {
        Vector* const p = &At(i, k);
        const int offset = third - k;
        const Vector old = p[0], turned = old + (t1 * p[1] + t2 * p[offset] + diagonal * old),
                     s = old + turned;
        p[0] = turned;
        p[1] -= v1 * s;
        p[offset] -= v2 * s;
      }
    }
  }

  // The eigenvalues of a lane's last one or two rows.
  void Extract(const EigenProblem<T>& problem, int64_t index, int lane, int low, int high, T scale) {
    T* const real = problem.real + index * n_;
    T* const imaginary = problem.imaginary + index * n_;
    const T d = At(high, high)[lane];
    real[high] = d * scale;
    imaginary[high] = 0;
    if (low == high) return;
    const T a = At(low, low)[lane], b = At(low, high)[lane], c = At(high, low)[lane];
    const T half = (a - d) / 2;
    // Scaled, so that tiny blocks do not underflow.
    T size = half < 0 ? -half : half;
    const T ab = b < 0 ? -b : b, ac = c < 0 ? -c : c;
    size = ab > size ? ab : size;
    size = ac > size ? ac : size;
    imaginary[low] = 0;
    if (size == 0) {
      real[low] = a * scale;
      return;
    }
    const T h = half / size, product = (b / size) * (c / size), discriminant = h * h + product;
    T root;
    if constexpr (sizeof(T) == 4) {
      root = __builtin_sqrtf(discriminant < 0 ? -discriminant : discriminant);
    } else {
      root = __builtin_sqrt(discriminant < 0 ? -discriminant : discriminant);
    }
    if (discriminant >= 0) {
      const T z = h + (h < 0 ? -root : root);
      real[low] = (d + z * size) * scale;
      real[high] = (z == 0 ? d : d - product / z * size) * scale;
    } else {
      real[low] = real[high] = (d + half) * scale;
      imaginary[low] = root * size * scale;
      imaginary[high] = -imaginary[low];
    }
  }

  void Iterate(const EigenProblem<T>& problem, int64_t first, int count, Vector scale, Mask finite) {
    const int limit = problem.most_sweeps > 0 ? problem.most_sweeps : 30 * (n_ > 10 ? n_ : 10);
    Mask high{}, iteration{}, total{};
    for (int lane = 0; lane < kLanes; ++lane) {
      high[lane] = lane < count && finite[lane] != 0 ? n_ - 1 : -1;
      if (lane >= count) continue;
      problem.outcomes[first + lane] =
          finite[lane] != 0 ? EigenOutcome::kConverged : EigenOutcome::kNotFinite;
      if (finite[lane] != 0) continue;
      const T nan = __builtin_nanf("");
      for (int i = 0; i < n_; ++i) {
        problem.real[(first + lane) * n_ + i] = problem.imaginary[(first + lane) * n_ + i] = nan;
      }
    }
    for (;;) {
      Mask low = BlockStarts(high, Most(high));
      for (bool deflated = true; deflated;) {  // until every lane's block has three rows
        deflated = false;
        for (int lane = 0; lane < count; ++lane) {
          if (high[lane] < 0 || low[lane] < high[lane] - 1) continue;
          Extract(problem, first + lane, lane, static_cast<int>(low[lane]), static_cast<int>(high[lane]),
                  scale[lane]);
          high[lane] = low[lane] - 1;
          iteration[lane] = 0;
          deflated = true;
        }
        if (deflated) low = BlockStarts(high, Most(high));
      }
      for (int lane = 0; lane < count; ++lane) {
        if (high[lane] < 0 || ++total[lane] <= limit) continue;
        problem.outcomes[first + lane] = EigenOutcome::kNotConverged;
        high[lane] = -1;
      }
      const Mask active = high >= 0;
      if (!Any(active)) return;
      iteration = active ? iteration + 1 : iteration;
      Sweep(active, low, high, iteration);
    }
  }

  const int n_, ld_;
  Vector* const a_;
  Vector* const v_;
};

}  // namespace
}  // namespace eigsvc::kernels
