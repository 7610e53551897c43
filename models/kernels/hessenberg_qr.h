// The algorithm of batched_eigenvalues.h, a matrix by a group of lanes (hessenberg.h): the double-shift QR
// iteration, one bulge at a time.
#pragma once

#include "models/kernels/batched_eigenvalues.h"
#include "models/kernels/hessenberg.h"
#include "models/kernels/small_math.h"

namespace eigsvc::kernels {

template <typename T>
struct Shifts {
  T real1, imaginary1, real2, imaginary2;  // conjugate or real
};

template <typename T, typename Lanes>
class HessenbergQr : protected Hessenberg<T, Lanes> {
 public:
  using Hessenberg<T, Lanes>::Hessenberg;

  // most_sweeps as in EigenProblem.
  EIGSVC_HOST_DEVICE EigenOutcome Run(T* real, T* imaginary, int most_sweeps) {
    return RunBy(real, imaginary, most_sweeps,
                 [this](int low, int high, int iteration) { Sweep(low, high, iteration); });
  }

  // Of a finite matrix that is in Hessenberg form.
  EIGSVC_HOST_DEVICE EigenOutcome RunOnHessenberg(T* real, T* imaginary) {
    T scale;
    this->Normalise(scale);
    return Iterate(real, imaginary, scale, 0,
                   [this](int low, int high, int iteration) { Sweep(low, high, iteration); });
  }

 protected:
  using Hessenberg<T, Lanes>::At;
  using Hessenberg<T, Lanes>::n_;
  using Hessenberg<T, Lanes>::ld_;
  using Hessenberg<T, Lanes>::lanes_;

  // `sweep` makes one or several sweeps of rows low to high; `iteration` counts its calls since these rows
  // last became fewer.
  template <typename SweepBy>
  EIGSVC_HOST_DEVICE EigenOutcome RunBy(T* real, T* imaginary, int most_sweeps, const SweepBy& sweep) {
    T scale;
    if (!this->Normalise(scale)) {
      for (int i = lanes_.rank(); i < n_; i += lanes_.size()) real[i] = imaginary[i] = this->NotANumber();
      return EigenOutcome::kNotFinite;
    }
    this->Balance();
    this->ToHessenberg();
    return Iterate(real, imaginary, scale, most_sweeps, sweep);
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
  EIGSVC_HOST_DEVICE void FirstColumn(int m, const Shifts<T>& shifts, T& x0, T& x1, T& x2) {
    const auto [r1, i1, r2, i2] = shifts;
    const T h00 = At(m, m), h10 = At(m + 1, m), h21 = At(m + 2, m + 1);
    const T inverse = 1 / (Abs(h00 - r2) + Abs(i2) + Abs(h10)), scaled = h10 * inverse;
    x0 = scaled * At(m, m + 1) + (h00 - r1) * ((h00 - r2) * inverse) - i1 * (i2 * inverse);
    x1 = scaled * (h00 + At(m + 1, m + 1) - r1 - r2);
    x2 = scaled * h21;
    const T total = Abs(x0) + Abs(x1) + Abs(x2);
    const bool any = total > Machine<T>::kTiny;  // not where the subdiagonals are as good as 0: no bulge then
    const T part = 1 / total;
    x0 = any ? x0 * part : T(1);
    x1 = any ? x1 * part : T(0);
    x2 = any ? x2 * part : T(0);
  }

  // The lowest row where two consecutive subdiagonals are small enough to start a sweep below `low`.
  EIGSVC_HOST_DEVICE int SweepStart(int low, int high, const Shifts<T>& shifts) {
    int start = low;
    for (int m = high - 2 - lanes_.rank(); m > low; m -= lanes_.size()) {
      T x0, x1, x2;
      FirstColumn(m, shifts, x0, x1, x2);
      const T around = Abs(At(m - 1, m - 1)) + Abs(At(m, m)) + Abs(At(m + 1, m + 1));
      if (Abs(At(m, m - 1)) * (Abs(x1) + Abs(x2)) <= Machine<T>::kEpsilon * Abs(x0) * around) {
        start = m;
        break;
      }
    }
    return lanes_.Max(start);
  }

  // Of the last two rows, or exceptional ones (xLAHQR's).
  EIGSVC_HOST_DEVICE Shifts<T> ShiftsOf(int low, int high, int iteration) {
    Shifts<T> s;
    if (iteration % 20 == 10 || iteration % 20 == 0) {
      const bool top = iteration % 20 == 10;
      const T size = top ? Abs(At(low + 1, low)) + Abs(At(low + 2, low + 1))
                         : Abs(At(high, high - 1)) + Abs(At(high - 1, high - 2));
      const T centre = T(0.75) * size + (top ? At(low, low) : At(high, high));
      TwoByTwo(centre, T(-0.4375) * size, size, centre, s.real1, s.imaginary1, s.real2, s.imaginary2);
      return s;
    }
    TwoByTwo(At(high - 1, high - 1), At(high - 1, high), At(high, high - 1), At(high, high), s.real1,
             s.imaginary1, s.real2, s.imaginary2);
    if (s.imaginary1 == 0) {  // two real shifts: the one nearer to the corner, twice
      const T nearer = Abs(s.real1 - At(high, high)) <= Abs(s.real2 - At(high, high)) ? s.real1 : s.real2;
      s.real1 = s.real2 = nearer;
    }
    return s;
  }

  EIGSVC_HOST_DEVICE void Sweep(int low, int high, int iteration) {
    const Shifts<T> shifts = ShiftsOf(low, high, iteration);
    const int start = SweepStart(low, high, shifts);
    T x0, x1, x2;
    FirstColumn(start, shifts, x0, x1, x2);
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

  template <typename SweepBy>
  EIGSVC_HOST_DEVICE EigenOutcome Iterate(T* real, T* imaginary, T scale, int most_sweeps,
                                          const SweepBy& sweep) {
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
      sweep(low, high, ++iteration);
    }
    return EigenOutcome::kConverged;
  }
};

}  // namespace eigsvc::kernels
