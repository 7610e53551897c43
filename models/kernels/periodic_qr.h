// The algorithm of periodic_eigenvalues.h for one product and a group of lanes that share its memory: one
// lane on a CPU, a warp on a GPU. Every lane takes the same scalar decisions; rows and columns are dealt out.
//
// Φ = A_{p-1}…A_0 (A_0 acts first). Orthogonal Q_k between the factors make A_0 upper Hessenberg and the
// others upper triangular, and implicitly shifted QR sweeps of H·T = A_0·(A_{p-1}…A_1) then drive A_0's
// subdiagonal to zero, so that eigenvalues are products along the diagonals (Bojanczyk, Golub & Van Dooren,
// "The periodic Schur decomposition", 1992; Kressner, "Numerical Methods for General and Structured
// Eigenvalue Problems", 2005, chapter 3). Only 3 by 3 corners of T are ever formed, with an exponent of their
// own, and only to choose shifts: a bad shift costs a sweep, not a digit.
#pragma once

#include "models/kernels/periodic_eigenvalues.h"
#include "models/kernels/periodic_factors.h"
#include "models/kernels/periodic_turns.h"
#include "models/kernels/small_math.h"

#if !defined(__CUDACC__)
#include <cmath>
#endif

namespace eigsvc::kernels {

// Arguments as of PeriodicFactors.
template <typename Lanes>
class PeriodicQr {
 public:
  EIGSVC_HOST_DEVICE PeriodicQr(double* a, int order, int factors, double* scratch, Lanes lanes)
      : factors_(a, order, factors, scratch, lanes), a_(a), ld_(order), p_(factors), lanes_(lanes) {}

  // log|λ| and arg λ, n each; of a conjugate pair the positive phase first.
  EIGSVC_HOST_DEVICE EigenOutcome Run(double* log_magnitude, double* phase) {
    log_magnitude_ = log_magnitude;
    phase_ = phase;
    if (!factors_.Reduce()) {
      for (int i = lanes_.rank(); i < ld_; i += lanes_.size())
        log_magnitude[i] = phase[i] = Infinity() - Infinity();
      return EigenOutcome::kNotFinite;
    }
    for (int i = factors_.order() + lanes_.rank(); i < ld_; i += lanes_.size()) {
      log_magnitude[i] = -Infinity();
      phase[i] = 0;
    }
    return Iterate();
  }

 private:
  static constexpr double kPi = 3.14159265358979323846;

  // Upper triangular corner of T = A_{p-1}…A_1 times 2^-exponent.
  struct Corner {
    double t00 = 1, t01 = 0, t02 = 0, t11 = 1, t12 = 0, t22 = 1;
    int exponent = 0;
  };

  EIGSVC_HOST_DEVICE double* Factor(int k) { return factors_.Factor(k); }
  EIGSVC_HOST_DEVICE double& H(int i, int j) { return a_[i * ld_ + j]; }

  EIGSVC_HOST_DEVICE Corner CornerAt(int i, int size) {
    Corner t;
    for (int k = 1; k < p_; ++k) {
      const double* const f = Factor(k) + i * ld_ + i;
      const double a00 = f[0], a01 = f[1], a11 = f[ld_ + 1];
      const double a02 = size > 2 ? f[2] : 0, a12 = size > 2 ? f[ld_ + 2] : 0,
                   a22 = size > 2 ? f[2 * ld_ + 2] : 0;
      t.t02 = a00 * t.t02 + a01 * t.t12 + a02 * t.t22;
      t.t01 = a00 * t.t01 + a01 * t.t11;
      t.t00 = a00 * t.t00;
      t.t12 = a11 * t.t12 + a12 * t.t22;
      t.t11 = a11 * t.t11;
      t.t22 = a22 * t.t22;
      const double largest =
          Largest(Largest(Largest(Abs(t.t00), Abs(t.t01)), Largest(Abs(t.t02), Abs(t.t11))),
                  Largest(Abs(t.t12), Abs(t.t22)));
      if (largest == 0) return t;
      if (largest > 0x1p-100 && largest < 0x1p100) continue;
      const int exponent = ilogb(largest);
      t.exponent += exponent;
      t.t00 = scalbn(t.t00, -exponent);
      t.t01 = scalbn(t.t01, -exponent);
      t.t02 = scalbn(t.t02, -exponent);
      t.t11 = scalbn(t.t11, -exponent);
      t.t12 = scalbn(t.t12, -exponent);
      t.t22 = scalbn(t.t22, -exponent);
    }
    return t;
  }

  EIGSVC_HOST_DEVICE bool Negligible(int k) {  // the subdiagonal element below row k
    const double around = Abs(H(k, k)) + Abs(H(k + 1, k + 1));
    // Largest elements were made 1: beside them, this does not count.
    return Abs(H(k + 1, k)) <= Largest(Machine<double>::kEpsilon * around, 1e-290);
  }
  // The start of the last block that no negligible subdiagonal cuts.
  EIGSVC_HOST_DEVICE int BlockStart(int high) {
    int start = 0;
    for (int k = high - lanes_.rank(); k > 0; k -= lanes_.size()) {
      if (!Negligible(k - 1)) continue;
      start = k;
      break;
    }
    return lanes_.Max(start);
  }

  // A turn of what A_0 gives, at index i, carried through all factors and back into A_0's columns. `empty`:
  // whether it was made to empty column i - 1 of A_0.
  EIGSVC_HOST_DEVICE void Carry(Turn turn, int i, int size, bool empty, int low, int high) {
    TurnRows(a_, ld_, turn, i, size, empty ? i - 1 : low, high, lanes_);
    if (empty && lanes_.rank() == 0) {
      for (int r = i + 1; r < i + size; ++r) H(r, i - 1) = 0;
    }
    for (int k = 1; k < p_; ++k) {
      double* const f = Factor(k);
      TurnColumns(f, ld_, turn, i, size, low, i + size - 1, lanes_);
      turn = Triangularising(f, ld_, i, size);
      lanes_.Sync();
      TurnRows(f, ld_, turn, i, size, i, high, lanes_);
      if (lanes_.rank() == 0) {
        f[(i + 1) * ld_ + i] = 0;
        if (size > 2) f[(i + 2) * ld_ + i] = f[(i + 2) * ld_ + i + 1] = 0;
      }
    }
    TurnColumns(a_, ld_, turn, i, size, low, i + size < high ? i + size : high, lanes_);
  }

  // A double-shift sweep over rows low to high, three at least.
  EIGSVC_HOST_DEVICE void Sweep(int low, int high, int iteration) {
    double x0 = 0, x1 = 0, x2 = 0;
    FirstColumn(low, high, /*shifted=*/iteration % 10 != 0, x0, x1, x2);
    const double largest = Largest(Largest(Abs(x0), Abs(x1)), Abs(x2));
    if (!Finite(largest) || !(largest > 0) || iteration % 20 == 15) {
      x0 = 1;
      x1 = 0.5;
      x2 = 0.25;
    } else {
      x0 /= largest;
      x1 /= largest;
      x2 /= largest;
    }
    for (int k = low; k < high; ++k) {
      const int size = k + 2 <= high ? 3 : 2;
      if (k > low) {
        x0 = H(k, k - 1);
        x1 = H(k + 1, k - 1);
        x2 = size > 2 ? H(k + 2, k - 1) : 0;
      }
      const Turn turn = Rotation(x0, x1, x2);
      lanes_.Sync();
      Carry(turn, k, size, k > low, low, high);
    }
  }

  // Of (HT - s1)(HT - s2), up to a factor, for the eigenvalues s of HT's last two rows.
  EIGSVC_HOST_DEVICE void FirstColumn(int low, int high, bool shifted, double& x0, double& x1, double& x2) {
    const Corner top = CornerAt(low, 3), end = CornerAt(high - 2, 3);
    const double h00 = H(low, low), h10 = H(low + 1, low), h01 = H(low, low + 1), h11 = H(low + 1, low + 1),
                 h21 = H(low + 2, low + 1);
    const double y0 = top.t00 * h00 + top.t01 * h10, y1 = top.t11 * h10;
    x0 = h00 * y0 + h01 * y1;
    x1 = h10 * y0 + h11 * y1;
    x2 = h21 * y1;
    if (!shifted) return;
    const double a = H(high - 1, high - 2), b = H(high - 1, high - 1), c = H(high - 1, high),
                 d = H(high, high - 1), e = H(high, high);
    double r1, i1, r2, i2;
    const double corner = d * end.t12 + e * end.t22;
    TwoByTwo(a * end.t01 + b * end.t11, a * end.t02 + b * end.t12 + c * end.t22, d * end.t11, corner, r1, i1,
             r2, i2);
    if (i1 == 0) r1 = r2 = Abs(r1 - corner) <= Abs(r2 - corner) ? r1 : r2;  // the nearer one, twice
    const int shift = end.exponent - top.exponent;
    r1 = scalbn(r1, shift);
    r2 = scalbn(r2, shift);
    i1 = scalbn(i1, shift);
    const double g = h00 * top.t00;
    const double s0 = ((g - r1) * (g - r2) + i1 * i1) / top.t00 + h00 * top.t01 * h10 + h01 * y1;
    const double s1 = x1 - (r1 + r2) * h10;
    // Where shifts and top differ beyond what a double holds, a sweep without shifts sorts them.
    if (!Finite(s0) || !Finite(s1)) return;
    x0 = s0;
    x1 = s1;
  }

  EIGSVC_HOST_DEVICE void Emit(int i, double log_magnitude, double phase) {
    if (lanes_.rank() != 0) return;
    log_magnitude_[i] = log_magnitude + factors_.scale();
    phase_[i] = log_magnitude == -Infinity() ? 0 : phase;
  }

  // The product along the diagonals.
  EIGSVC_HOST_DEVICE void EmitOne(int i) {
    double sum = 0;
    bool negative = false;
    for (int k = 0; k < p_; ++k) {
      const double x = Factor(k)[i * ld_ + i];
      sum += log(Abs(x));
      negative = negative != (x < 0);
    }
    Emit(i, sum, negative ? kPi : 0);
  }

  // A block of two: a conjugate pair, whose |λ|² is the product of the determinants, or two real eigenvalues,
  // which sweeps shifted by the smaller one part.
  EIGSVC_HOST_DEVICE void EmitTwo(int i) {
    constexpr int kMostSweeps = 30;
    for (int sweep = 0;; ++sweep) {
      if (Negligible(i)) {
        if (lanes_.rank() == 0) H(i + 1, i) = 0;
        EmitOne(i);
        EmitOne(i + 1);
        return;
      }
      const Corner t = CornerAt(i, 2);
      const double h00 = H(i, i), h01 = H(i, i + 1), h10 = H(i + 1, i), h11 = H(i + 1, i + 1);
      const double a = h00 * t.t00, b = h00 * t.t01 + h01 * t.t11, c = h10 * t.t00,
                   d = h10 * t.t01 + h11 * t.t11;
      const double half = (a - d) / 2, middle = (a + d) / 2, discriminant = half * half + b * c;
      const double determinant = h00 * h11 - h01 * h10;
      double log_determinant = log(Abs(determinant));
      bool negative = determinant < 0;
      for (int k = 1; k < p_; ++k) {
        const double x = Factor(k)[i * ld_ + i], y = Factor(k)[(i + 1) * ld_ + i + 1];
        log_determinant += log(Abs(x)) + log(Abs(y));
        negative = negative != ((x < 0) != (y < 0));
      }
      if (discriminant < 0 && !negative) {
        const double phase = atan2(Root(-discriminant), middle);
        Emit(i, log_determinant / 2, phase);
        Emit(i + 1, log_determinant / 2, -phase);
        return;
      }
      const double larger = middle + CopySign(Root(Largest(discriminant, 0.0)), middle);
      const double log_larger = log(Abs(larger)) + t.exponent * kLogOf2;
      const double log_smaller = log_determinant - log_larger;
      if (sweep == kMostSweeps || larger == 0) {
        const bool larger_negative = larger < 0;
        Emit(i, log_larger, larger_negative ? kPi : 0);
        Emit(i + 1, larger == 0 ? log_larger : log_smaller, larger_negative != negative ? kPi : 0);
        return;
      }
      const double smaller = ((larger < 0) != negative ? -1 : 1) * exp(log_smaller - t.exponent * kLogOf2);
      double x0 = h00 - smaller / t.t00;
      if (!Finite(x0)) x0 = h00;
      const Turn turn = Rotation(x0, h10, 0);
      lanes_.Sync();
      Carry(turn, i, 2, /*empty=*/false, i, i + 1);
    }
  }

  EIGSVC_HOST_DEVICE EigenOutcome Iterate() {
    const int n = factors_.order(), limit = 30 * (n > 10 ? n : 10);
    int iteration = 0, total = 0;
    for (int high = n - 1; high >= 0;) {
      const int low = BlockStart(high);
      if (low >= high - 1) {
        if (low == high) {
          EmitOne(low);
        } else {
          EmitTwo(low);
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

  PeriodicFactors<Lanes> factors_;
  double* const a_;
  const int ld_, p_;
  const Lanes lanes_;
  double* log_magnitude_ = nullptr;
  double* phase_ = nullptr;
};

}  // namespace eigsvc::kernels
