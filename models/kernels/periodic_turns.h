// Rotations of two or three neighbouring rows or columns of the factors of periodic_qr.h, [·,ld], by a group
// of lanes that share their memory.
#pragma once

#include "models/kernels/small_math.h"

namespace eigsvc::kernels {

// Orthogonal; rows r become q·r, columns c become c·qᵀ.
struct Turn {
  double q[3][3];
};

// The rotation that maps x to a multiple of (1, 0, ..), among the first `size` of three coordinates.
EIGSVC_HOST_DEVICE Turn Rotation(double x0, double x1, double x2) {
  const Rotation3<double> h = MakeRotation(x0, x1, x2);
  return {{{1 + h.diagonal, h.t1, h.t2},
           {-h.t1, 1 - h.t1 * h.v1, -h.t1 * h.v2},
           {-h.t2, -h.t2 * h.v1, 1 - h.t2 * h.v2}}};
}

// The turn that makes the block of `size` at (i,i) of a factor upper triangular.
EIGSVC_HOST_DEVICE Turn Triangularising(const double* f, int ld, int i, int size) {
  const double* const b = f + i * ld + i;
  const bool three = size > 2;
  const Turn first = Rotation(b[0], b[ld], three ? b[2 * ld] : 0);
  if (!three) return first;
  double x[3];  // the second column after the first rotation
  for (int r = 0; r < 3; ++r)
    x[r] = first.q[r][0] * b[1] + first.q[r][1] * b[ld + 1] + first.q[r][2] * b[2 * ld + 1];
  const Turn second = Rotation(x[1], x[2], 0);
  Turn both;
  for (int c = 0; c < 3; ++c) {
    both.q[0][c] = first.q[0][c];
    both.q[1][c] = second.q[0][0] * first.q[1][c] + second.q[0][1] * first.q[2][c];
    both.q[2][c] = second.q[1][0] * first.q[1][c] + second.q[1][1] * first.q[2][c];
  }
  return both;
}

// Columns begin to end, inclusive, of rows i and on.
template <typename Lanes>
EIGSVC_HOST_DEVICE void TurnRows(double* f, int ld, const Turn& turn, int i, int size, int begin, int end,
                                 const Lanes& lanes) {
  double *const r0 = f + i * ld, *const r1 = r0 + ld, *const r2 = r1 + ld;
  const auto& q = turn.q;
  if (size > 2) {
    for (int c = begin + lanes.rank(); c <= end; c += lanes.size()) {
      const double x = r0[c], y = r1[c], z = r2[c];
      r0[c] = q[0][0] * x + q[0][1] * y + q[0][2] * z;
      r1[c] = q[1][0] * x + q[1][1] * y + q[1][2] * z;
      r2[c] = q[2][0] * x + q[2][1] * y + q[2][2] * z;
    }
  } else {
    for (int c = begin + lanes.rank(); c <= end; c += lanes.size()) {
      const double x = r0[c], y = r1[c];
      r0[c] = q[0][0] * x + q[0][1] * y;
      r1[c] = q[1][0] * x + q[1][1] * y;
    }
  }
  lanes.Sync();
}
// Rows begin to end, inclusive, of columns i and on.
template <typename Lanes>
EIGSVC_HOST_DEVICE void TurnColumns(double* f, int ld, const Turn& turn, int i, int size, int begin, int end,
                                    const Lanes& lanes) {
  const auto& q = turn.q;
  for (int r = begin + lanes.rank(); r <= end; r += lanes.size()) {
    double* const row = f + r * ld + i;
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
  lanes.Sync();
}

}  // namespace eigsvc::kernels
