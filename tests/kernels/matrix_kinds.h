// Real matrices of the kinds that eigen-solvers stumble over, several of each.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace eigsvc::testing {

using RandomBits = std::mt19937_64;
using Matrix = std::vector<double>;  // [order,order], row-major

inline Matrix RandomMatrix(int order, RandomBits& bits) {
  std::normal_distribution<double> normal;
  Matrix a(static_cast<size_t>(order) * order);
  for (double& x : a) x = normal(bits);
  return a;
}

// A random matrix's rows by Gram and Schmidt, twice, which is enough.
inline Matrix RandomOrthogonal(int order, RandomBits& bits) {
  Matrix q = RandomMatrix(order, bits);
  for (int i = 0; i < order; ++i) {
    double* const row = q.data() + i * order;
    for (int pass = 0; pass < 2; ++pass) {
      for (int k = 0; k < i; ++k) {
        const double* const other = q.data() + k * order;
        double dot = 0;
        for (int j = 0; j < order; ++j) dot += row[j] * other[j];
        for (int j = 0; j < order; ++j) row[j] -= dot * other[j];
      }
    }
    double square = 0;
    for (int j = 0; j < order; ++j) square += row[j] * row[j];
    for (int j = 0; j < order; ++j) row[j] /= std::sqrt(square);
  }
  return q;
}

// Constant along each diagonal. The first: Grcar's, whose eigenvalues react to the smallest change.
inline Matrix ToeplitzMatrix(int order, int index, RandomBits& bits) {
  const Matrix random = RandomMatrix(order + 1, bits);
  Matrix a(static_cast<size_t>(order) * order);
  for (int i = 0; i < order; ++i) {
    for (int j = 0; j < order; ++j) {
      const double grcar = j - i == -1 ? -1 : j >= i && j - i <= 3 ? 1 : 0;
      a[i * order + j] = index == 0 ? grcar : random[j - i + order];
    }
  }
  return a;
}

// Of a polynomial with coefficients of one size, then over six decades.
inline Matrix CompanionMatrix(int order, int index, RandomBits& bits) {
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> decades(-3, 3);
  Matrix a(static_cast<size_t>(order) * order);
  for (int i = 0; i < order; ++i) {
    if (i > 0) a[i * order + i - 1] = 1;
    a[i * order + order - 1] = normal(bits) * (index == 0 ? 1 : std::pow(10, decades(bits)));
  }
  return a;
}

// One Jordan block, then two in another basis, so that no structure is left to see.
inline Matrix DefectiveMatrix(int order, int index, RandomBits& bits) {
  Matrix a(static_cast<size_t>(order) * order);
  for (int i = 0; i < order; ++i) {
    a[i * order + i] = index == 0 || i < order / 2 ? 0.5 : -0.25;
    if (i + 1 < order && (index == 0 || i + 1 != order / 2)) a[i * order + i + 1] = 1;
  }
  if (index == 0) return a;
  const Matrix q = RandomOrthogonal(order, bits);
  const auto product = [&](const auto& left, const auto& right) {
    Matrix c(static_cast<size_t>(order) * order);
    for (int i = 0; i < order; ++i) {
      for (int k = 0; k < order; ++k) {
        for (int j = 0; j < order; ++j) c[i * order + j] += left(i, k) * right(k, j);
      }
    }
    return c;
  };
  const Matrix half =
      product([&](int i, int k) { return q[i * order + k]; }, [&](int k, int j) { return a[k * order + j]; });
  return product([&](int i, int k) { return half[i * order + k]; },
                 [&](int k, int j) { return q[j * order + k]; });
}

// Rows, then columns, then both, that fall by 2^24 in all.
inline Matrix GradedMatrix(int order, int index, RandomBits& bits) {
  Matrix a = RandomMatrix(order, bits);
  for (int i = 0; i < order; ++i) {
    for (int j = 0; j < order; ++j) {
      const double place = index == 0 ? i : index == 1 ? j : (i + j) / 2.0;
      a[i * order + j] *= std::exp2(-24 * place / std::max(1, order - 1));
    }
  }
  return a;
}

// A shift in a circle, on which QR without exceptional shifts stands still, then others.
inline Matrix OrthogonalMatrix(int order, int index, RandomBits& bits) {
  if (index > 0) return RandomOrthogonal(order, bits);
  Matrix a(static_cast<size_t>(order) * order);
  for (int i = 0; i < order; ++i) a[i * order + (i + 1) % order] = 1;
  return a;
}

// A step of a gated unit: diag(f) + diag(g) W, its gates between open and almost shut.
inline Matrix JacobianMatrix(int order, RandomBits& bits) {
  std::normal_distribution<double> normal;
  const auto gate = [&] { return 1 / (1 + std::exp(-4 * normal(bits))); };
  Matrix a = RandomMatrix(order, bits);
  for (int i = 0; i < order; ++i) {
    const double g = gate() / std::sqrt(order);
    for (int j = 0; j < order; ++j) a[i * order + j] *= g;
    a[i * order + i] += gate();
  }
  return a;
}

struct MatrixKind {
  const char* name;
  Matrix (*make)(int order, int index, RandomBits& bits);
};

inline constexpr MatrixKind kMatrixKinds[] = {
    {"random", [](int order, int, RandomBits& bits) { return RandomMatrix(order, bits); }},
    {"Toeplitz", ToeplitzMatrix},
    {"companion", CompanionMatrix},
    {"defective", DefectiveMatrix},
    {"graded", GradedMatrix},
    {"orthogonal", OrthogonalMatrix},
    {"Jacobian", [](int order, int, RandomBits& bits) { return JacobianMatrix(order, bits); }},
    {"zero", [](int order, int, RandomBits&) { return Matrix(static_cast<size_t>(order) * order, 0.0); }},
};

}  // namespace eigsvc::testing
