// Factors of products whose eigenvalues golden/windows.json has (oracle_windows.py draws the same): every
// number is one that a double holds exactly.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace eigsvc::testing {

// Numbers of 12 bits in [-1, 1).
class Draw {
 public:
  explicit Draw(uint64_t seed) : state_(seed) {}
  double operator()() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(static_cast<int64_t>(state_ >> 52) - 2048) * 0x1p-11;
  }

 private:
  uint64_t state_;
};

// length matrices [order,order], one behind the other. "iid"; "gated": diag(f) + diag(g) W, W the same at
// each step, like the Jacobians of a gated unit.
inline std::vector<double> WindowFactors(const std::string& kind, int order, int64_t length, uint64_t seed) {
  Draw draw(seed);
  const int64_t size = static_cast<int64_t>(order) * order;
  std::vector<double> factors(length * size);
  if (kind == "iid") {
    for (double& x : factors) x = draw();
    return factors;
  }
  std::vector<double> weights(size), f(order), g(order);
  for (double& x : weights) x = draw();
  for (int64_t k = 0; k < length; ++k) {
    for (double& x : f) x = 0.75 + draw() / 4;
    for (double& x : g) x = draw() / 4;
    for (int i = 0; i < order; ++i) {
      for (int j = 0; j < order; ++j)
        factors[k * size + i * order + j] = g[i] * weights[i * order + j] + (i == j ? f[i] : 0);
    }
  }
  return factors;
}

}  // namespace eigsvc::testing
