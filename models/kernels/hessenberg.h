// The way to Hessenberg form of one matrix by a group of lanes that share its memory: one lane on a CPU, a
// part of a warp or several warps on a GPU. Every lane runs the same scalar decisions; rows and columns are
// dealt out.
#pragma once

#include "models/kernels/small_math.h"

namespace eigsvc::kernels {

// `a`: row-major with leading dimension ld, destroyed; v: order elements of scratch that the lanes share.
// Lanes has rank(), size(), Sync() (orders the lanes' memory accesses), Sum(x), Max(x) and Any(bool).
template <typename T, typename Lanes>
class Hessenberg {
 public:
  EIGSVC_HOST_DEVICE Hessenberg(T* a, int order, int ld, T* v, Lanes lanes)
      : a_(a), n_(order), ld_(ld), v_(v), lanes_(lanes) {}

 protected:
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
      for (int j = k + 1 + lanes_.rank(); j < n_; j += lanes_.size()) Reflect(&At(k + 1, j), ld_, k + 1, t);
      lanes_.Sync();
      for (int i = lanes_.rank(); i < n_; i += lanes_.size()) Reflect(&At(i, k + 1), 1, k + 1, t);
      lanes_.Sync();
    }
  }

  // Takes t·v vᵀ, v from `first` on, off a row or column at x whose elements are `stride` apart. Four
  // elements at a time: a lane waits for memory, not for arithmetic, and no load may pass a store that might
  // be to its place.
  EIGSVC_HOST_DEVICE void Reflect(T* x, int stride, int first, T t) {
    constexpr int kAtOnce = 4;
    const T* const v = v_ + first;
    const int length = n_ - first, whole = length / kAtOnce * kAtOnce;
    T sums[kAtOnce] = {};
    for (int i = 0; i < whole; i += kAtOnce) {
      for (int u = 0; u < kAtOnce; ++u) sums[u] += x[(i + u) * stride] * v[i + u];
    }
    for (int i = whole; i < length; ++i) sums[0] += x[i * stride] * v[i];
    const T factor = t * ((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (int i = 0; i < whole; i += kAtOnce) {
      T changed[kAtOnce];
      for (int u = 0; u < kAtOnce; ++u) changed[u] = x[(i + u) * stride] - factor * v[i + u];
      for (int u = 0; u < kAtOnce; ++u) x[(i + u) * stride] = changed[u];
    }
    for (int i = whole; i < length; ++i) x[i * stride] -= factor * v[i];
  }

  T* const a_;
  const int n_, ld_;
  T* const v_;
  const Lanes lanes_;
};

}  // namespace eigsvc::kernels
