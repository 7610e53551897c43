// The algorithm of batched_eigenvalues.h, a matrix by several warps: QR sweeps that chase a chain of
// double-shift bulges, four rows from one to the next (Braman, Byers & Mathias, "The multishift QR algorithm
// I", SIAM J. Matrix Anal. Appl. 23, 2002, without its deflation windows). One bulge leaves several warps
// idle: what a step takes is the wait for its reflection's root and quotient, not the rows it turns, and
// bulges wait together.
#pragma once

#include "models/kernels/batched_eigenvalues.h"
#include "models/kernels/hessenberg_qr.h"
#include "models/kernels/small_math.h"

namespace eigsvc::kernels {

inline constexpr int kMostBulges = 4;

// What the lanes share beside the matrix and its scratch.
template <typename T>
struct BulgeChain {
  static constexpr int kCorner = 2 * kMostBulges, kCornerLd = kCorner + 1;
  Rotation3<T> rotations[2][kMostBulges];  // of this step and of the next
  Shifts<T> shifts[kMostBulges];
  int bulges;
  // The last rows, whose eigenvalues are the shifts: in float32 for both types, since a shift's error costs
  // part of a sweep, and no digit.
  float corner[kCorner * kCornerLd], real[kCorner], imaginary[kCorner];
};

// Lanes as hessenberg.h asks, and: leads(), of a first group() of lanes, themselves Lanes, which make the
// reflections; worker() and workers(), of those that apply them to what is far from the bulges, or worker() <
// 0.
template <typename T, typename Lanes>
class BulgeChainQr : protected HessenbergQr<T, Lanes> {
 public:
  EIGSVC_HOST_DEVICE BulgeChainQr(T* a, int order, int ld, T* v, BulgeChain<T>* chain, Lanes lanes)
      : HessenbergQr<T, Lanes>(a, order, ld, v, lanes), chain_(chain) {}

  // most_sweeps as in EigenProblem; a chain is one sweep.
  EIGSVC_HOST_DEVICE EigenOutcome Run(T* real, T* imaginary, int most_sweeps) {
    return this->RunBy(real, imaginary, most_sweeps,
                       [this](int low, int high, int iteration) { Chase(low, high, iteration); });
  }

 private:
  using HessenbergQr<T, Lanes>::At;
  using HessenbergQr<T, Lanes>::ld_;
  using HessenbergQr<T, Lanes>::v_;
  using HessenbergQr<T, Lanes>::lanes_;

  // Four rows apart no reflection of a step reads what another one of that step writes.
  static constexpr int kDistance = 4;

  // How many bulges are worth the search for their shifts.
  EIGSVC_HOST_DEVICE static int BulgesFor(int rows, int iteration) {
    constexpr int kChains = 6;  // then one by one, as xLAHQR, with exceptional shifts
    if (iteration > kChains || rows < 20) return 1;
    return rows < 32 ? 2 : rows < 48 ? 3 : kMostBulges;
  }

  EIGSVC_HOST_DEVICE void Chase(int low, int high, int iteration) {
    int start = low, bulges = BulgesFor(high - low + 1, iteration);
    if (bulges > 1) {
      if (lanes_.leads()) FindShifts(high, bulges);
      lanes_.Sync();
      bulges = chain_->bulges;
    }
    if (bulges == 1) {
      const Shifts<T> shifts = this->ShiftsOf(low, high, iteration);
      start = this->SweepStart(low, high, shifts);
      if (lanes_.rank() == 0) chain_->shifts[0] = shifts;
    }
    if (lanes_.leads()) Advance(low, high, start, -1, bulges);
    lanes_.Sync();
    const int steps = high - start + kDistance * (bulges - 1);
    for (int step = 0; step < steps; ++step) {
      Turn<true>(low, high, start, step, bulges);
      lanes_.Sync();
      if (lanes_.leads()) Advance(low, high, start, step, bulges);
      Turn<false>(low, high, start, step, bulges);
      lanes_.Sync();
    }
  }

  // The eigenvalues of the last 2·bulges rows, paired; chain_->bulges is 1 where they are not found.
  EIGSVC_HOST_DEVICE void FindShifts(int high, int bulges) {
    constexpr int kLd = BulgeChain<T>::kCornerLd;
    const auto group = lanes_.group();
    const int m = 2 * bulges, first = high + 1 - m;
    for (int i = group.rank(); i < m * m; i += group.size()) {
      const int row = i / m, column = i % m;
      chain_->corner[row * kLd + column] =
          row <= column + 1 ? static_cast<float>(At(first + row, first + column)) : 0.0f;
    }
    group.Sync();
    float *const real = chain_->real, *const imaginary = chain_->imaginary;
    HessenbergQr<float, decltype(lanes_.group())> corner(chain_->corner, m, kLd, nullptr, group);
    const bool found = corner.RunOnHessenberg(real, imaginary) == EigenOutcome::kConverged;
    if (group.rank() == 0) {
      chain_->bulges = found ? bulges : 1;
      int pairs = 0, waiting = -1;  // a real one, for the next
      for (int i = 0; found && i < m; ++i) {
        if (imaginary[i] != 0) {
          chain_->shifts[pairs++] = {real[i], imaginary[i], real[i + 1], imaginary[i + 1]};
          ++i;
        } else if (waiting < 0) {
          waiting = i;
        } else {
          chain_->shifts[pairs++] = {real[waiting], 0, real[i], 0};
          waiting = -1;
        }
      }
    }
  }

  // Where bulge b is at a step; it turns rows and columns k to k + 2 for start <= k < high.
  EIGSVC_HOST_DEVICE static int Place(int start, int step, int b) { return start + step - kDistance * b; }

  // By each bulge's lane of the group: this step's reflection on the columns of the rows that the next one is
  // made of, and the next one.
  EIGSVC_HOST_DEVICE void Advance(int low, int high, int start, int step, int bulges) {
    const auto group = lanes_.group();
    for (int b = group.rank(); b < bulges; b += group.size()) {
      const int k = Place(start, step, b);
      if (k < start - 1 || k >= high) continue;
      T x[3][3] = {};
      if (k == start - 1) {
        this->FirstColumn(start, chain_->shifts[b], x[0][0], x[1][0], x[2][0]);
      } else {
        const Rotation3<T> now = chain_->rotations[step & 1][b];
        const bool three = k + 2 <= high;
        for (int r = 0; r < 3; ++r) {
          if (k + 1 + r > high) continue;
          const T* const p = &At(k + 1 + r, k);
          x[r][0] = p[0];
          x[r][1] = p[1];
          if (three) x[r][2] = p[2];
        }
        for (int r = 0; r < 3; ++r) now.Apply(x[r][0], x[r][1], x[r][2]);
        for (int r = 0; r < 3; ++r) {
          if (k + 1 + r > high) continue;
          T* const p = &At(k + 1 + r, k);
          p[0] = x[r][0];
          p[1] = x[r][1];
          if (three) p[2] = x[r][2];
        }
        if (k + 1 == high) continue;
      }
      const Rotation3<T> next = MakeRotation(x[0][0], x[1][0], x[2][0]);
      chain_->rotations[(step + 1) & 1][b] = next;
      if (k >= start) {
        At(k + 1, k) = next.beta;
        At(k + 2, k) = 0;
        if (k + 3 <= high) At(k + 3, k) = 0;
      } else if (start > low) {
        At(start, start - 1) *=
            1 + next.diagonal;  // not left as it is: the small elements above were ignored
      }
    }
  }

  // By the workers: this step's reflections on rows, right of each bulge, or on columns, above it.
  template <bool kRows>
  EIGSVC_HOST_DEVICE void Turn(int low, int high, int start, int step, int bulges) {
    if (lanes_.worker() < 0) return;
    const Rotation3<T>* const rotations = chain_->rotations[step & 1];
    const int first = Place(start, step, 0), last = Place(start, step, kMostBulges - 1);
    if (bulges == kMostBulges && last >= start && first + 2 <= high) {
      TurnAll<kRows>(low, high, first, rotations);
      return;
    }
    for (int b = 0; b < bulges; ++b) {
      const int k = Place(start, step, b);
      if (k >= start && k < high) TurnOne<kRows>(low, high, k, rotations[b]);
    }
  }

  template <bool kRows>
  EIGSVC_HOST_DEVICE void TurnOne(int low, int high, int k, Rotation3<T> rotation) {
    const int stride = kRows ? ld_ : 1, end = kRows ? high : k;
    for (int at = (kRows ? k : low) + lanes_.worker(); at <= end; at += lanes_.workers()) {
      T* const x = kRows ? &At(k, at) : &At(at, k);
      if (k + 2 <= high) {
        rotation.Apply(x[0], x[stride], x[2 * stride]);
      } else {
        rotation.Apply(x[0], x[stride]);
      }
    }
  }

  // A whole chain, the first bulge at `first`. Without a branch but about what is stored, so that a lane
  // waits once for all that it reads; for a bulge that its row or column is beyond it reads the scratch,
  // nobody's by now.
  template <bool kRows>
  EIGSVC_HOST_DEVICE void TurnAll(int low, int high, int first, const Rotation3<T>* rotations) {
    const int stride = kRows ? ld_ : 1;
    const int begin = kRows ? first - kDistance * (kMostBulges - 1) : low, end = kRows ? high : first;
    for (int at = begin + lanes_.worker(); at <= end; at += lanes_.workers()) {
      T* from[kMostBulges];
      T x[kMostBulges][3];
      for (int b = 0; b < kMostBulges; ++b) {
        const int k = first - kDistance * b;
        const bool turned = kRows ? at >= k : at <= k;
        from[b] = turned ? kRows ? &At(k, at) : &At(at, k) : v_;
        for (int i = 0; i < 3; ++i) x[b][i] = from[b][turned ? i * stride : 0];
      }
      for (int b = 0; b < kMostBulges; ++b) rotations[b].Apply(x[b][0], x[b][1], x[b][2]);
      for (int b = 0; b < kMostBulges; ++b) {
        const int k = first - kDistance * b;
        if (kRows ? at < k : at > k) continue;
        for (int i = 0; i < 3; ++i) from[b][i * stride] = x[b][i];
      }
    }
  }

  BulgeChain<T>* const chain_;
};

}  // namespace eigsvc::kernels
