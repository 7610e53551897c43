// What becomes of the factors of periodic_qr.h before it iterates, for a group of lanes that share their
// memory: each is scaled, what is not live is left out, and orthogonal Q_k between them make A_0 upper
// Hessenberg and the others upper triangular.
#pragma once

#include <cstdint>

#include "models/kernels/small_math.h"

#if !defined(__CUDACC__)
#include <cmath>
#endif

namespace eigsvc::kernels {

inline constexpr double kLogOf2 = 0.693147180559945309417;

// What PeriodicFactors needs beside its factors, in elements.
EIGSVC_HOST_DEVICE int64_t PeriodicScratch(int order, int factors) {
  return static_cast<int64_t>(order) * (factors + 2);
}

EIGSVC_HOST_DEVICE double Infinity() { return 1 / Machine<double>::kTiny / Machine<double>::kTiny; }
EIGSVC_HOST_DEVICE bool Finite(double x) { return x - x == 0; }

// a: p factors [n,n] one behind the other, row-major, destroyed; scratch: PeriodicScratch elements that the
// lanes share. Lanes as of HessenbergQr.
template <typename Lanes>
class PeriodicFactors {
 public:
  EIGSVC_HOST_DEVICE PeriodicFactors(double* a, int order, int factors, double* scratch, Lanes lanes)
      : a_(a),
        ld_(order),
        p_(factors),
        v_(scratch),
        w_(scratch + order),
        live_(scratch + 2 * order),
        n_(order),
        lanes_(lanes) {}

  // False where some factor is not finite; nothing has then become of them.
  EIGSVC_HOST_DEVICE bool Reduce() {
    if (!Normalise()) return false;
    Trim();
    ToHessenbergTriangular();
    return true;
  }

  // Of the product that is left, the top left corner of all factors; as many eigenvalues less are 0.
  EIGSVC_HOST_DEVICE int order() const { return n_; }
  EIGSVC_HOST_DEVICE double* Factor(int k) { return a_ + static_cast<int64_t>(k) * ld_ * ld_; }
  // The logarithm of what the factors were divided by.
  EIGSVC_HOST_DEVICE double scale() const { return scale_; }

 private:
  // Divides each factor by a power of two so that its largest element is in [1, 2), and keeps the logarithm.
  EIGSVC_HOST_DEVICE bool Normalise() {
    scale_ = 0;
    for (int k = 0; k < p_; ++k) {
      double* const f = Factor(k);
      double largest = 0;
      bool finite = true;
      for (int i = lanes_.rank(); i < ld_ * ld_; i += lanes_.size()) {
        finite = finite && Finite(f[i]);
        largest = Largest(largest, Abs(f[i]));
      }
      if (lanes_.Any(!finite)) return false;
      largest = lanes_.Max(largest);
      if (largest == 0) continue;  // then Φ = 0, and so is a diagonal
      const int exponent = ilogb(largest);
      scale_ += exponent * kLogOf2;
      for (int i = lanes_.rank(); i < ld_ * ld_; i += lanes_.size()) f[i] = scalbn(f[i], -exponent);
    }
    lanes_.Sync();
    return true;
  }

  // The reflection I - t v vᵀ that leaves of column j of factor f only row i among rows [i, end). False where
  // it is so.
  EIGSVC_HOST_DEVICE bool MakeLongReflector(double* f, int i, int j, int end, double& t) {
    double rest = 0;
    for (int r = i + 1 + lanes_.rank(); r < end; r += lanes_.size()) rest += f[r * ld_ + j] * f[r * ld_ + j];
    rest = lanes_.Sum(rest);
    if (rest == 0) return false;
    const double x0 = f[i * ld_ + j], beta = -CopySign(Root(x0 * x0 + rest), x0), scale = 1 / (x0 - beta);
    t = (beta - x0) / beta;
    lanes_.Sync();
    for (int r = i + lanes_.rank(); r < end; r += lanes_.size()) {
      v_[r] = r == i ? 1 : f[r * ld_ + j] * scale;
      f[r * ld_ + j] = r == i ? beta : 0;
    }
    lanes_.Sync();
    return true;
  }
  // To rows [i, end) of columns [j, end).
  EIGSVC_HOST_DEVICE void ReflectRows(double* f, int i, int j, int end, double t) {
    for (int c = j + lanes_.rank(); c < end; c += lanes_.size()) w_[c] = 0;
    for (int r = i; r < end; ++r) {
      const double v = v_[r];
      for (int c = j + lanes_.rank(); c < end; c += lanes_.size()) w_[c] += v * f[r * ld_ + c];
    }
    for (int r = i; r < end; ++r) {
      const double v = t * v_[r];
      for (int c = j + lanes_.rank(); c < end; c += lanes_.size()) f[r * ld_ + c] -= v * w_[c];
    }
    lanes_.Sync();
  }
  // To columns [i, end) of rows [0, end).
  EIGSVC_HOST_DEVICE void ReflectColumns(double* f, int i, int end, double t) {
    for (int r = lanes_.rank(); r < end; r += lanes_.size()) {
      double* const row = f + r * ld_;
      double sum = 0;
      for (int c = i; c < end; ++c) sum += row[c] * v_[c];
      sum *= t;
      for (int c = i; c < end; ++c) row[c] -= sum * v_[c];
    }
    lanes_.Sync();
  }

  // Element i of what passes from A_{k-1} to A_k is live unless A_{k-1} never gives it or A_k never takes it:
  // a zero row of the one, a zero column of the other, as where a ReLU is off.
  EIGSVC_HOST_DEVICE double& Live(int k, int i) { return live_[(k % p_) * ld_ + i]; }
  EIGSVC_HOST_DEVICE int LiveCount(int k) {
    int count = 0;
    for (int i = 0; i < ld_; ++i) count += Live(k, i) != 0;
    return count;
  }

  // Leaves out what is not live, and with it eigenvalues that are 0: rounding would make them something else.
  // Where the fewest, m, are live, the product is one of order m: from there on, each factor's QR
  // decomposition leaves m rows to the next.
  EIGSVC_HOST_DEVICE void Trim() {
    if (!FindLive()) return;
    if (lanes_.rank() == 0) {
      for (int k = 0; k < p_; ++k) Compact(k);
    }
    lanes_.Sync();
    int narrowest = 0;
    for (int k = 0; k < p_; ++k) {
      const int count = LiveCount(k);
      if (count >= n_) continue;
      n_ = count;
      narrowest = k;
    }
    for (int step = 0; step + 1 < p_; ++step) {
      const int k = (narrowest + step) % p_;
      double* const f = Factor(k);
      for (int j = 0; j < n_; ++j) {
        double t;
        if (!MakeLongReflector(f, j, j, ld_, t)) continue;
        ReflectRows(f, j, j + 1, ld_, t);
        ReflectColumns(Factor((k + 1) % p_), j, ld_, t);
      }
    }
  }

  // Whether some are not. What one lane does alone is rare.
  EIGSVC_HOST_DEVICE bool FindLive() {
    bool empty = false;
    for (int64_t i = lanes_.rank(); i < static_cast<int64_t>(p_) * ld_; i += lanes_.size()) {
      const double* const f = Factor(static_cast<int>(i / ld_));
      const int at = static_cast<int>(i % ld_);
      double row = 0, column = 0;
      for (int j = 0; j < ld_; ++j) {
        row = Largest(row, Abs(f[at * ld_ + j]));
        column = Largest(column, Abs(f[j * ld_ + at]));
      }
      empty = empty || row == 0 || column == 0;
      live_[i] = 1;
    }
    if (!lanes_.Any(empty)) return false;
    lanes_.Sync();
    for (bool changed = lanes_.rank() == 0; changed;) {
      changed = false;
      for (int k = 0; k < p_; ++k) {
        const double* const f = Factor(k);
        for (int i = 0; i < ld_; ++i) {
          bool given = false, taken = false;  // by A_k, its row and its column i
          for (int j = 0; j < ld_; ++j) {
            given = given || (Live(k, j) != 0 && f[i * ld_ + j] != 0);
            taken = taken || (Live(k + 1, j) != 0 && f[j * ld_ + i] != 0);
          }
          changed = changed || (!given && Live(k + 1, i) != 0) || (!taken && Live(k, i) != 0);
          if (!given) Live(k + 1, i) = 0;
          if (!taken) Live(k, i) = 0;
        }
      }
    }
    lanes_.Sync();
    return true;
  }

  // Moves the live rows and columns of A_k to its top left; the rest is 0.
  EIGSVC_HOST_DEVICE void Compact(int k) {
    double* const f = Factor(k);
    int row = 0;
    for (int i = 0; i < ld_; ++i) {
      if (Live(k + 1, i) == 0) continue;
      int column = 0;
      for (int j = 0; j < ld_; ++j) {
        if (Live(k, j) != 0) f[row * ld_ + column++] = f[i * ld_ + j];
      }
      for (; column < ld_; ++column) f[row * ld_ + column] = 0;
      ++row;
    }
    for (; row < ld_; ++row) {
      for (int j = 0; j < ld_; ++j) f[row * ld_ + j] = 0;
    }
  }

  // Column by column through all factors, so that no reflection fills what an earlier one emptied.
  EIGSVC_HOST_DEVICE void ToHessenbergTriangular() {
    for (int j = 0; j + 1 < n_; ++j) {
      for (int k = 1; k < p_ + 1; ++k) {
        const bool hessenberg = k == p_;
        double* const f = Factor(hessenberg ? 0 : k);
        const int first = hessenberg ? j + 1 : j;
        double t;
        if (!MakeLongReflector(f, first, j, n_, t)) continue;
        ReflectRows(f, first, j + 1, n_, t);
        ReflectColumns(Factor(hessenberg ? 1 % p_ : (k + 1) % p_), first, n_, t);
      }
    }
  }

  double* const a_;
  const int ld_, p_;
  double *const v_, *const w_, *const live_;
  int n_;
  const Lanes lanes_;
  double scale_ = 0;
};

}  // namespace eigsvc::kernels
