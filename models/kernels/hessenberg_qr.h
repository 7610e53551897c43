// The algorithm of batched_eigenvalues.h for one matrix and a group of lanes that share its memory: one lane
// on a CPU, a part of a warp on a GPU. Every lane runs the same scalar decisions; rows and columns are dealt
// out.
#pragma once

#include "models/kernels/batched_eigenvalues.h"

#if defined(__CUDACC__)
#define EIGSVC_HOST_DEVICE __host__ __device__ __forceinline__
#else
#include <cmath>
#define EIGSVC_HOST_DEVICE inline
#endif

namespace eigsvc::kernels {

template <typename T>
struct Machine;
template <>
struct Machine<float> {
  static constexpr float kEpsilon = 1.1920929e-07f, kTiny = 1.17549435e-38f;
};
template <>
struct Machine<double> {
  static constexpr double kEpsilon = 2.220446049250313e-16, kTiny = 2.2250738585072014e-308;
};

// Standard library names, which nvcc maps to the device's.
template <typename T>
EIGSVC_HOST_DEVICE T Abs(T x) {
  return x < 0 ? -x : x;
}
template <typename T>
EIGSVC_HOST_DEVICE T Largest(T a, T b) {
  return a > b ? a : b;
}
template <typename T>
EIGSVC_HOST_DEVICE T CopySign(T magnitude, T sign) {
  return sign < 0 ? -Abs(magnitude) : Abs(magnitude);
}
EIGSVC_HOST_DEVICE float Root(float x) { return sqrtf(x); }
EIGSVC_HOST_DEVICE double Root(double x) { return sqrt(x); }

// Maps x to (beta, 0, 0): the reflection I - t·v vᵀ, v[0] = 1, whose first row is negated. So it is near the
// identity where x is near that already, and what converged early is not rounded anew by each later sweep:
// half the backward error at order 128. Its first diagonal element is 1 + diagonal, t1 = t·v1, t2 = t·v2.
template <typename T>
struct Rotation3 {
  T v1, v2, t1, t2, diagonal, beta;

  // To a pair or a triple of one column. All are read first: for all the compiler knows they are one.
  EIGSVC_HOST_DEVICE void Apply(T& a0, T& a1) const {
    const T x0 = a0, x1 = a1;
    const T turned = x0 + (t1 * x1 + diagonal * x0);
    a0 = turned;
    a1 = x1 - v1 * (x0 + turned);
  }
  EIGSVC_HOST_DEVICE void Apply(T& a0, T& a1, T& a2) const {
    const T x0 = a0, x1 = a1, x2 = a2;
    const T turned = x0 + (t1 * x1 + t2 * x2 + diagonal * x0), sum = x0 + turned;
    a0 = turned;
    a1 = x1 - v1 * sum;
    a2 = x2 - v2 * sum;
  }
};

template <typename T>
EIGSVC_HOST_DEVICE Rotation3<T> MakeRotation(T x0, T x1, T x2) {
  const T rest = x1 * x1 + x2 * x2;
  if (rest == 0) return {0, 0, 0, 0, 0, x0};
  const T length = Root(x0 * x0 + rest), sum = Abs(x0) + length;
  const T scale = CopySign(1 / sum, x0), v1 = x1 * scale, v2 = x2 * scale;
  // From v, so that it is orthogonal even where the squares above underflow.
  const T square = v1 * v1 + v2 * v2, t = 2 / (1 + square);
  return {v1, v2, t * v1, t * v2, -t * square, CopySign(length, x0)};
}

// Eigenvalues of [[a, b], [c, d]].
template <typename T>
EIGSVC_HOST_DEVICE void TwoByTwo(T a, T b, T c, T d, T& real1, T& imag1, T& real2, T& imag2) {
  const T scale = Largest(Largest(Abs(a), Abs(b)), Largest(Abs(c), Abs(d)));
  real1 = real2 = a;
  imag1 = imag2 = 0;
  if (scale == 0) return;
  const T half = (a / scale - d / scale) / 2, product = (b / scale) * (c / scale);
  const T discriminant = half * half + product;
  if (discriminant >= 0) {
    const T z = half + CopySign(Root(discriminant), half);
    real1 = d + z * scale;
    real2 = z == 0 ? d : d - product / z * scale;
  } else {
    real1 = real2 = d + half * scale;
    imag1 = Root(-discriminant) * scale;
    imag2 = -imag1;
  }
}

// `a`: row-major with leading dimension ld, destroyed; v: order elements of scratch that the lanes share.
// Lanes has rank(), size(), Sync() (orders the lanes' memory accesses), Sum(x), Max(x) and Any(bool).
template <typename T, typename Lanes>
class HessenbergQr {
 public:
  EIGSVC_HOST_DEVICE HessenbergQr(T* a, int order, int ld, T* v, Lanes lanes)
      : a_(a), n_(order), ld_(ld), v_(v), lanes_(lanes) {}

  // most_sweeps as in EigenProblem.
  EIGSVC_HOST_DEVICE EigenOutcome Run(T* real, T* imaginary, int most_sweeps) {
    T scale;
    if (!Normalise(scale)) {
      for (int i = lanes_.rank(); i < n_; i += lanes_.size()) real[i] = imaginary[i] = NotANumber();
      return EigenOutcome::kNotFinite;
    }
    Balance();
    ToHessenberg();
    return Iterate(real, imaginary, scale, most_sweeps);
  }

 private:
  EIGSVC_HOST_DEVICE T& At(int i, int j) { return a_[i * ld_ + j]; }
  EIGSVC_HOST_DEVICE static T NotANumber() {
    const T infinity = 2 / Machine<T>::kTiny * (2 / Machine<T>::kTiny);
    return infinity - infinity;
  }

  // Divides by a power of two so that the largest element is in [1, 2): nothing overflows later.
  EIGSVC_HOST_DEVICE bool Normalise(T& scale) {
    T largest = 0;
    bool finite = true;
    for (int i = 0; i < n_; ++i) {
      for (int j = lanes_.rank(); j < n_; j += lanes_.size()) {
        const T x = Abs(At(i, j));
        finite = finite && x - x == 0;
        largest = Largest(largest, x);
      }
    }
    scale = 1;
    if (lanes_.Any(!finite)) return false;
    largest = lanes_.Max(largest);
    if (largest == 0) return true;
    T inverse = 1;
    while (largest * inverse >= 2) inverse /= 2, scale *= 2;
    while (largest * inverse < 1) inverse *= 2, scale /= 2;
    if (scale == 1) return true;
    for (int i = 0; i < n_; ++i) {
      for (int j = lanes_.rank(); j < n_; j += lanes_.size()) At(i, j) *= inverse;
    }
    lanes_.Sync();
    return true;
  }

  // Scales rows and columns by powers of two towards equal norms (xGEBAL without permutation).
  EIGSVC_HOST_DEVICE void Balance() {
    constexpr int kMaxSweeps = 8;
    for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
      bool changed = false;
      for (int i = 0; i < n_; ++i) {
        T column = 0, row = 0;
        for (int k = lanes_.rank(); k < n_; k += lanes_.size()) {
          if (k == i) continue;
          column += Abs(At(k, i));
          row += Abs(At(i, k));
        }
        column = lanes_.Sum(column);
        row = lanes_.Sum(row);
        if (column == 0 || row == 0) continue;
        const T before = column + row;
        T factor = 1;
        while (column < row / 2 && factor < T(1 << 20)) factor *= 2, column *= 2, row /= 2;
        while (column >= row * 2 && factor > 1 / T(1 << 20)) factor /= 2, column /= 2, row *= 2;
        if (factor == 1 || column + row >= T(0.95) * before) continue;
        changed = true;
        for (int k = lanes_.rank(); k < n_; k += lanes_.size()) {
          if (k == i) continue;
          At(k, i) *= factor;
          At(i, k) /= factor;
        }
        lanes_.Sync();
      }
      if (!changed) return;
    }
  }

  EIGSVC_HOST_DEVICE void ToHessenberg() {
    for (int k = 0; k + 2 < n_; ++k) {
      T rest = 0;
      for (int i = k + 2 + lanes_.rank(); i < n_; i += lanes_.size()) rest += At(i, k) * At(i, k);
      rest = lanes_.Sum(rest);
      if (rest == 0) continue;
      const T x0 = At(k + 1, k);
      const T beta = -CopySign(Root(x0 * x0 + rest), x0);
      const T t = (beta - x0) / beta, scale = 1 / (x0 - beta);
      for (int i = k + 1 + lanes_.rank(); i < n_; i += lanes_.size())
        v_[i] = i == k + 1 ? T(1) : At(i, k) * scale;
      lanes_.Sync();
      for (int i = k + 1 + lanes_.rank(); i < n_; i += lanes_.size()) At(i, k) = i == k + 1 ? beta : T(0);
      for (int j = k + 1 + lanes_.rank(); j < n_; j += lanes_.size()) {
        T sum = 0;
        for (int i = k + 1; i < n_; ++i) sum += At(i, j) * v_[i];
        sum *= t;
        for (int i = k + 1; i < n_; ++i) At(i, j) -= sum * v_[i];
      }
      lanes_.Sync();
      for (int i = lanes_.rank(); i < n_; i += lanes_.size()) {
        T sum = 0;
        for (int j = k + 1; j < n_; ++j) sum += At(i, j) * v_[j];
        sum *= t;
        for (int j = k + 1; j < n_; ++j) At(i, j) -= sum * v_[j];
      }
      lanes_.Sync();
    }
  }

  // The start of the last block that no negligible subdiagonal cuts (Ahues & Tisseur's criterion, as xLAHQR).
  EIGSVC_HOST_DEVICE int BlockStart(int high) {
    int start = 0;
    for (int k = high - lanes_.rank(); k > 0; k -= lanes_.size()) {
      const T below = Abs(At(k, k - 1));
      bool small = below <= kSmallest();
      if (!small) {
        T around = Abs(At(k - 1, k - 1)) + Abs(At(k, k));
        if (around == 0) {
          if (k >= 2) around += Abs(At(k - 1, k - 2));
          if (k + 1 <= high) around += Abs(At(k + 1, k));
        }
        if (below <= Machine<T>::kEpsilon * around) {
          const T above = Abs(At(k - 1, k)), difference = Abs(At(k - 1, k - 1) - At(k, k));
          const T ab = Largest(below, above), ba = below > above ? above : below;
          const T aa = Largest(Abs(At(k, k)), difference),
                  bb = Abs(At(k, k)) > difference ? difference : Abs(At(k, k));
          const T sum = aa + ab;
          small = ba * (ab / sum) <= Largest(kSmallest(), Machine<T>::kEpsilon * (bb * (aa / sum)));
        }
      }
      if (small) {
        start = k;
        break;
      }
    }
    return lanes_.Max(start);
  }
  // Elements are below 2 and n below 2^7, so what is smaller than this does not count beside them.
  EIGSVC_HOST_DEVICE static T kSmallest() { return Machine<T>::kTiny / Machine<T>::kEpsilon * T(128); }

  // The first column of (H - s1)(H - s2) at row m, up to a factor.
  EIGSVC_HOST_DEVICE void FirstColumn(int m, T r1, T i1, T r2, T i2, T& x0, T& x1, T& x2) {
    const T h00 = At(m, m), h10 = At(m + 1, m), h21 = At(m + 2, m + 1);
    const T s = Abs(h00 - r2) + Abs(i2) + Abs(h10), scaled = h10 / s;
    x0 = scaled * At(m, m + 1) + (h00 - r1) * ((h00 - r2) / s) - i1 * (i2 / s);
    x1 = scaled * (h00 + At(m + 1, m + 1) - r1 - r2);
    x2 = scaled * h21;
    const T total = Abs(x0) + Abs(x1) + Abs(x2);
    x0 /= total;
    x1 /= total;
    x2 /= total;
  }

  // The lowest row where two consecutive subdiagonals are small enough to start a sweep below `low`.
  EIGSVC_HOST_DEVICE int SweepStart(int low, int high, T r1, T i1, T r2, T i2) {
    int start = low;
    for (int m = high - 2 - lanes_.rank(); m > low; m -= lanes_.size()) {
      T x0, x1, x2;
      FirstColumn(m, r1, i1, r2, i2, x0, x1, x2);
      const T around = Abs(At(m - 1, m - 1)) + Abs(At(m, m)) + Abs(At(m + 1, m + 1));
      if (Abs(At(m, m - 1)) * (Abs(x1) + Abs(x2)) <= Machine<T>::kEpsilon * Abs(x0) * around) {
        start = m;
        break;
      }
    }
    return lanes_.Max(start);
  }

  EIGSVC_HOST_DEVICE void Sweep(int low, int high, int iteration) {
    T r1, i1, r2, i2;
    if (iteration % 20 == 10 || iteration % 20 == 0) {  // exceptional shifts (xLAHQR's)
      const bool top = iteration % 20 == 10;
      const T s = top ? Abs(At(low + 1, low)) + Abs(At(low + 2, low + 1))
                      : Abs(At(high, high - 1)) + Abs(At(high - 1, high - 2));
      const T centre = T(0.75) * s + (top ? At(low, low) : At(high, high));
      TwoByTwo(centre, T(-0.4375) * s, s, centre, r1, i1, r2, i2);
    } else {
      TwoByTwo(At(high - 1, high - 1), At(high - 1, high), At(high, high - 1), At(high, high), r1, i1, r2,
               i2);
      if (i1 == 0) {  // two real shifts: the one nearer to the corner, twice
        const T nearer = Abs(r1 - At(high, high)) <= Abs(r2 - At(high, high)) ? r1 : r2;
        r1 = r2 = nearer;
      }
    }
    const int start = SweepStart(low, high, r1, i1, r2, i2);
    T x0, x1, x2;
    FirstColumn(start, r1, i1, r2, i2, x0, x1, x2);
    for (int k = start; k < high; ++k) {
      const bool three = k + 2 <= high;
      if (k > start) {
        x0 = At(k, k - 1);
        x1 = At(k + 1, k - 1);
        x2 = three ? At(k + 2, k - 1) : T(0);
      }
      const Rotation3<T> h = MakeRotation(x0, x1, x2);
      lanes_.Sync();
      if (lanes_.rank() == 0) {
        if (k > start) {
          At(k, k - 1) = h.beta;
          At(k + 1, k - 1) = 0;
          if (three) At(k + 2, k - 1) = 0;
        } else if (start > low) {
          At(k, k - 1) *= 1 + h.diagonal;  // not left as it is: the small elements above were ignored
        }
      }
      for (int j = k + lanes_.rank(); j <= high; j += lanes_.size()) {
        T *const p = &At(k, j), *const below = p + ld_;
        if (three) {
          h.Apply(p[0], below[0], below[ld_]);
        } else {
          h.Apply(p[0], below[0]);
        }
      }
      lanes_.Sync();
      const int last = k + 3 < high ? k + 3 : high;
      for (int i = low + lanes_.rank(); i <= last; i += lanes_.size()) {
        T* const p = &At(i, k);
        if (three) {
          h.Apply(p[0], p[1], p[2]);
        } else {
          h.Apply(p[0], p[1]);
        }
      }
      lanes_.Sync();
    }
  }

  EIGSVC_HOST_DEVICE EigenOutcome Iterate(T* real, T* imaginary, T scale, int most_sweeps) {
    const int limit = most_sweeps > 0 ? most_sweeps : 30 * (n_ > 10 ? n_ : 10);
    int iteration = 0, total = 0;
    for (int high = n_ - 1; high >= 0;) {
      const int low = BlockStart(high);
      if (low >= high - 1) {
        T r1, i1 = 0, r2 = 0, i2 = 0;
        if (low == high) {
          r1 = At(high, high);
        } else {
          TwoByTwo(At(low, low), At(low, high), At(high, low), At(high, high), r1, i1, r2, i2);
        }
        if (lanes_.rank() == 0) {
          real[low] = r1 * scale;
          imaginary[low] = i1 * scale;
          if (low < high) {
            real[high] = r2 * scale;
            imaginary[high] = i2 * scale;
          }
        }
        high = low - 1;
        iteration = 0;
        continue;
      }
      if (++total > limit) return EigenOutcome::kNotConverged;
      Sweep(low, high, ++iteration);
    }
    return EigenOutcome::kConverged;
  }

  T* const a_;
  const int n_, ld_;
  T* const v_;
  const Lanes lanes_;
};

}  // namespace eigsvc::kernels
