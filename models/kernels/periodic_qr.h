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
#include "models/kernels/small_math.h"

#if !defined(__CUDACC__)
#include <cmath>
#endif

namespace eigsvc::kernels {

// What PeriodicQr needs beside its factors, in elements.
EIGSVC_HOST_DEVICE int64_t PeriodicScratch(int order, int factors) {
  return static_cast<int64_t>(order) * (factors + 2);
}

// a: p factors [n,n] one behind the other, row-major, destroyed; scratch: PeriodicScratch elements that the
// lanes share. Lanes as of HessenbergQr.
template <typename Lanes>
class PeriodicQr {
 public:
  EIGSVC_HOST_DEVICE PeriodicQr(double* a, int order, int factors, double* scratch, Lanes lanes)
      : a_(a),
        ld_(order),
        p_(factors),
        v_(scratch),
        w_(scratch + order),
        live_(scratch + 2 * order),
        n_(order),
        lanes_(lanes) {}

  // log|λ| and arg λ, n each; of a conjugate pair the positive phase first.
  EIGSVC_HOST_DEVICE EigenOutcome Run(double* log_magnitude, double* phase) {
    log_magnitude_ = log_magnitude;
    phase_ = phase;
    if (!Normalise()) {
      for (int i = lanes_.rank(); i < ld_; i += lanes_.size())
        log_magnitude[i] = phase[i] = Infinity() - Infinity();
      return EigenOutcome::kNotFinite;
    }
    Trim();
    for (int i = n_ + lanes_.rank(); i < ld_; i += lanes_.size()) {
      log_magnitude[i] = -Infinity();
      phase[i] = 0;
    }
    ToHessenbergTriangular();
    return Iterate();
  }

 private:
  static constexpr double kLog2 = 0.693147180559945309417, kPi = 3.14159265358979323846;

  // Upper triangular corner of T = A_{p-1}…A_1 times 2^-exponent.
  struct Corner {
    double t00 = 1, t01 = 0, t02 = 0, t11 = 1, t12 = 0, t22 = 1;
    int exponent = 0;
  };
  // Orthogonal; rows r become q·r, columns c become c·qᵀ.
  struct Turn {
    double q[3][3];
  };

  EIGSVC_HOST_DEVICE static double Infinity() { return 1 / Machine<double>::kTiny / Machine<double>::kTiny; }
  EIGSVC_HOST_DEVICE static bool Finite(double x) { return x - x == 0; }
  EIGSVC_HOST_DEVICE double* Factor(int k) { return a_ + static_cast<int64_t>(k) * ld_ * ld_; }
  EIGSVC_HOST_DEVICE double& H(int i, int j) { return a_[i * ld_ + j]; }

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
      scale_ += exponent * kLog2;
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

  // The rotation that maps x to a multiple of (1, 0, ..), among the first `size` of three coordinates.
  EIGSVC_HOST_DEVICE static Turn Rotation(double x0, double x1, double x2) {
    const Rotation3<double> h = MakeRotation(x0, x1, x2);
    return {{{1 + h.diagonal, h.t1, h.t2},
             {-h.t1, 1 - h.t1 * h.v1, -h.t1 * h.v2},
             {-h.t2, -h.t2 * h.v1, 1 - h.t2 * h.v2}}};
  }

  // The turn that makes the block of `size` at (i,i) of a factor upper triangular.
  EIGSVC_HOST_DEVICE Turn Triangularising(const double* f, int i, int size) {
    const double* const b = f + i * ld_ + i;
    const bool three = size > 2;
    const Turn first = Rotation(b[0], b[ld_], three ? b[2 * ld_] : 0);
    if (!three) return first;
    double x[3];  // the second column after the first rotation
    for (int r = 0; r < 3; ++r)
      x[r] = first.q[r][0] * b[1] + first.q[r][1] * b[ld_ + 1] + first.q[r][2] * b[2 * ld_ + 1];
    const Turn second = Rotation(x[1], x[2], 0);
    Turn both;
    for (int c = 0; c < 3; ++c) {
      both.q[0][c] = first.q[0][c];
      both.q[1][c] = second.q[0][0] * first.q[1][c] + second.q[0][1] * first.q[2][c];
      both.q[2][c] = second.q[1][0] * first.q[1][c] + second.q[1][1] * first.q[2][c];
    }
    return both;
  }

  EIGSVC_HOST_DEVICE void TurnRows(double* f, const Turn& turn, int i, int size, int begin, int end) {
    double *const r0 = f + i * ld_, *const r1 = r0 + ld_, *const r2 = r1 + ld_;
    const auto& q = turn.q;
    if (size > 2) {
      for (int c = begin + lanes_.rank(); c <= end; c += lanes_.size()) {
        const double x = r0[c], y = r1[c], z = r2[c];
        r0[c] = q[0][0] * x + q[0][1] * y + q[0][2] * z;
        r1[c] = q[1][0] * x + q[1][1] * y + q[1][2] * z;
        r2[c] = q[2][0] * x + q[2][1] * y + q[2][2] * z;
      }
    } else {
      for (int c = begin + lanes_.rank(); c <= end; c += lanes_.size()) {
        const double x = r0[c], y = r1[c];
        r0[c] = q[0][0] * x + q[0][1] * y;
        r1[c] = q[1][0] * x + q[1][1] * y;
      }
    }
    lanes_.Sync();
  }
  EIGSVC_HOST_DEVICE void TurnColumns(double* f, const Turn& turn, int i, int size, int begin, int end) {
    const auto& q = turn.q;
    for (int r = begin + lanes_.rank(); r <= end; r += lanes_.size()) {
      double* const row = f + r * ld_ + i;
      const double x = row[0], y = row[1];
      if (size > 2) {
        const double z = row[2];
        row[0] = q[0][0] * x + q[0][1] * y + q[0][2] * z;
        row[1] = q[1][0] * x + q[1][1] * y + q[1][2] * z;
        row[2] = q[2][0] * x + q[2][1] * y + q[2][2] * z;
      } else {
        row[0] = q[0][0] * x + q[0][1] * y;
        row[1] = q[1][0] * x + q[1][1] * y;
      }
    }
    lanes_.Sync();
  }

  // A turn of what A_0 gives, at index i, carried through all factors and back into A_0's columns. `empty`:
  // whether it was made to empty column i - 1 of A_0.
  EIGSVC_HOST_DEVICE void Carry(Turn turn, int i, int size, bool empty, int low, int high) {
    TurnRows(a_, turn, i, size, empty ? i - 1 : low, high);
    if (empty && lanes_.rank() == 0) {
      for (int r = i + 1; r < i + size; ++r) H(r, i - 1) = 0;
    }
    for (int k = 1; k < p_; ++k) {
      double* const f = Factor(k);
      TurnColumns(f, turn, i, size, low, i + size - 1);
      turn = Triangularising(f, i, size);
      lanes_.Sync();
      TurnRows(f, turn, i, size, i, high);
      if (lanes_.rank() == 0) {
        f[(i + 1) * ld_ + i] = 0;
        if (size > 2) f[(i + 2) * ld_ + i] = f[(i + 2) * ld_ + i + 1] = 0;
      }
    }
    TurnColumns(a_, turn, i, size, low, i + size < high ? i + size : high);
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
    log_magnitude_[i] = log_magnitude + scale_;
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
      const double log_larger = log(Abs(larger)) + t.exponent * kLog2;
      const double log_smaller = log_determinant - log_larger;
      if (sweep == kMostSweeps || larger == 0) {
        const bool larger_negative = larger < 0;
        Emit(i, log_larger, larger_negative ? kPi : 0);
        Emit(i + 1, larger == 0 ? log_larger : log_smaller, larger_negative != negative ? kPi : 0);
        return;
      }
      const double smaller = ((larger < 0) != negative ? -1 : 1) * exp(log_smaller - t.exponent * kLog2);
      double x0 = h00 - smaller / t.t00;
      if (!Finite(x0)) x0 = h00;
      const Turn turn = Rotation(x0, h10, 0);
      lanes_.Sync();
      Carry(turn, i, 2, /*empty=*/false, i, i + 1);
    }
  }

  EIGSVC_HOST_DEVICE EigenOutcome Iterate() {
    const int limit = 30 * (n_ > 10 ? n_ : 10);
    int iteration = 0, total = 0;
    for (int high = n_ - 1; high >= 0;) {
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

  double* const a_;
  const int ld_, p_;
  double *const v_, *const w_, *const live_;
  int n_;  // order of the product that is left
  const Lanes lanes_;
  double* log_magnitude_ = nullptr;
  double* phase_ = nullptr;
  double scale_ = 0;  // log of what the factors were divided by
};

}  // namespace eigsvc::kernels
