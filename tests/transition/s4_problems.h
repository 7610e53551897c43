// S4's matrices and an independent solver for them: mpmath in as many digits as asked (oracle_secular.py).
#pragma once

#include <complex>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ATen/ops/linalg_eigh.h"
#include "ATen/ops/zeros.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "models/transition/secular.h"
#include "tests/testing/paths.h"

namespace eigsvc::testing {

using Complex = std::complex<double>;

struct S4Problem {
  std::vector<Complex> d, u, v;
  int64_t rank = 1;
  SecularProblem view() const { return {static_cast<int64_t>(d.size()), rank, d, u, v}; }
};

// HiPPO-LegS in the basis where it is normal plus rank one (arXiv 2111.00396, appendix C.1): d = -1/2 +
// i·eig(-iS) for its skew-symmetric part S, p = Vᴴ√(n+1/2). Its eigenvalues are -1, ..., -N but for the
// rounding of d and p, which are rounded to float32 where `single`.
inline S4Problem HippoLegs(int64_t size, bool single) {
  at::Tensor imaginary = at::zeros({size, size}, c10::kComplexDouble);
  auto* entries = reinterpret_cast<Complex*>(imaginary.mutable_data_ptr());
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j < size; ++j) {
      const double half = std::sqrt((2.0 * i + 1) * (2.0 * j + 1)) / 2;
      // A + p pᵀ is -1/2 on the diagonal, -half below it and +half above it; -i times the skew part is
      // Hermitian.
      if (i != j) entries[i * size + j] = Complex(0, i > j ? half : -half);
    }
  }
  const auto [values, vectors] = at::linalg_eigh(imaginary);
  S4Problem problem;
  const at::Tensor v = vectors.contiguous();
  const auto* basis = reinterpret_cast<const Complex*>(v.const_data_ptr());
  const auto rounded = [&](Complex z) { return single ? Complex(std::complex<float>(z)) : z; };
  for (int64_t k = 0; k < size; ++k) {
    Complex p;
    for (int64_t n = 0; n < size; ++n)
      p += std::conj(basis[n * size + k]) * std::sqrt(static_cast<double>(n) + 0.5);
    problem.d.push_back(rounded({-0.5, values[k].item<double>()}));
    problem.u.push_back(rounded(p));
    problem.v.push_back(std::conj(problem.u.back()));
  }
  return problem;
}

// A random one, with u and v unrelated.
inline S4Problem RandomProblem(Random& random, int64_t size, int64_t rank) {
  const auto normal = [&] {
    const double real = random.Normal();
    return Complex(real, random.Normal());
  };
  S4Problem problem;
  problem.rank = rank;
  for (int64_t j = 0; j < size; ++j) problem.d.push_back(normal());
  for (int64_t j = 0; j < size * rank; ++j) {
    problem.u.push_back(normal());
    problem.v.push_back(normal());
  }
  return problem;
}

struct OracleSolution {
  std::vector<Complex> values;
  std::vector<double> condition;
};

// Empty when the oracle did not run; the reason is reported.
inline std::vector<OracleSolution> SolveByOracle(const std::vector<S4Problem>& problems, int digits) {
  const auto pair = [](const Complex& z) { return nlohmann::json{z.real(), z.imag()}; };
  const auto rows = [&](const std::vector<Complex>& values, int64_t rank) {
    nlohmann::json all = nlohmann::json::array();
    for (size_t i = 0; i < values.size(); i += static_cast<size_t>(rank)) {
      nlohmann::json row = nlohmann::json::array();
      for (int64_t a = 0; a < rank; ++a) row.push_back(pair(values[i + static_cast<size_t>(a)]));
      all.push_back(row);
    }
    return all;
  };
  nlohmann::json input = nlohmann::json::array();
  for (const S4Problem& problem : problems) {
    nlohmann::json d = nlohmann::json::array();
    for (const Complex& z : problem.d) d.push_back(pair(z));
    input.push_back({{"digits", digits},
                     {"d", d},
                     {"u", rows(problem.u, problem.rank)},
                     {"v", rows(problem.v, problem.rank)}});
  }
  const std::string from = ::testing::TempDir() + "secular_in.json",
                    to = ::testing::TempDir() + "secular_out.json";
  std::ofstream(from) << input.dump();
  const std::string command = std::string("'") + EIGSVC_ORACLE_PYTHON + "' '" +
                              SourcePath("tests/transition/oracle_secular.py") + "' '" + from + "' '" + to +
                              "'";
  if (std::system(command.c_str()) != 0) {
    ADD_FAILURE() << command;
    return {};
  }
  std::vector<OracleSolution> solutions;
  for (const nlohmann::json& solved : nlohmann::json::parse(std::ifstream(to))) {
    OracleSolution& solution = solutions.emplace_back();
    for (const nlohmann::json& z : solved.at("values"))
      solution.values.emplace_back(z[0].get<double>(), z[1].get<double>());
    solution.condition = solved.at("condition").get<std::vector<double>>();
  }
  return solutions;
}

// mpmath is the reference and lives in the oracles' Python; a build without it still runs the closed forms.
// CI refuses skips.
#define EIGSVC_REQUIRE_ORACLE()                  \
  if (std::string(EIGSVC_ORACLE_PYTHON).empty()) \
  GTEST_SKIP() << "no oracle: configure with EIGSVC_ORACLE_PYTHON"

}  // namespace eigsvc::testing
