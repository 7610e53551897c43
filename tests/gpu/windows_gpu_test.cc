// Eigenvalues of windows by the CUDA kernel against its plain CPU twin and golden numbers, on a GPU.
#include <algorithm>
#include <complex>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/from_blob.h"
#include "ATen/ops/nan_to_num.h"
#include "ATen/ops/randn.h"
#include "gtest/gtest.h"
#include "models/transition/eigenvalues.h"
#include "tests/gpu/gpu_kernels.h"
#include "tests/kernels/relative_errors.h"
#include "tests/kernels/window_factors.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using testing::kCuda;
using testing::OrdersOf;
using testing::Size;

TEST(KernelsGpuTest, WindowsOfMatricesAreThoseOfTheTwin) {
  for (const int64_t order : OrdersOf({1, 2, 3, 7, 16, 33, 64}, {1, 3, 7, 33})) {
    const Window window{order <= 16 ? Size(64, 8) : Size(12, 4), 5};
    const int64_t steps = Size(80, 14);
    at::Tensor matrices = at::randn({3, steps, 2, order, order}, at::kDouble);
    if (order > 3) {
      matrices.select(1, steps / 4).select(2, 1).zero_();  // a unit that is off for a step
      matrices[1][steps - 10][1][0][2].fill_(std::numeric_limits<double>::quiet_NaN());
    }
    EigenvalueOptions options;
    options.window = window;
    options.drop_zero_phases = false;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found,
                                ComputeEigenvalues({Dense{matrices.to(kCuda)}}, options));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues expected, ComputeEigenvalues({Dense{matrices}}, options));
    EXPECT_TRUE(found.log_magnitude.is_cuda());
    // By size, since a pair has one; what is no number stands for itself.
    const auto sorted = [](const at::Tensor& x) {
      return std::get<0>(x.cpu().sort(-1)).nan_to_num(1e3, 2e3, 3e3);
    };
    EXPECT_LE((sorted(found.log_magnitude) - sorted(expected.log_magnitude)).abs().max().item<double>(), 1e-7)
        << order;
    EXPECT_LE((sorted(found.phase) - sorted(expected.phase)).abs().max().item<double>(), 1e-6) << order;
  }
}

// log λ of [..,order] values as RelativeErrors takes them.
std::vector<std::complex<double>> Logs(const Eigenvalues& values) {
  const at::Tensor logs =
      at::complex(values.log_magnitude.to(at::kDouble), values.phase.to(at::kDouble)).cpu().contiguous();
  const auto* data = static_cast<const std::complex<double>*>(logs.const_data_ptr());
  return {data, data + logs.numel()};
}

double WorstOfWindows(const Eigenvalues& found, const std::vector<std::complex<double>>& expected,
                      int64_t order) {
  const std::vector<std::complex<double>> logs = Logs(found);
  EXPECT_EQ(logs.size(), expected.size());
  double worst = 0;
  for (size_t i = 0; i < logs.size(); i += order) {
    for (const double error : testing::RelativeErrors({logs.begin() + i, logs.begin() + i + order},
                                                      {expected.begin() + i, expected.begin() + i + order}))
      worst = std::max(worst, error);
  }
  return worst;
}

// As periodic_eigenvalues_test.cc asks of the CPU's form, at 256 steps against mpmath and against that form.
TEST(KernelsGpuTest, LongWindowsAreThoseOfManyDigits) {
  EigenvalueOptions options;
  options.drop_zero_phases = false;
  const auto steps_of = [](const std::string& kind, int64_t order, int64_t length, uint64_t seed) {
    std::vector<double> factors = testing::WindowFactors(kind, static_cast<int>(order), length, seed);
    return at::from_blob(factors.data(), {1, length, 1, order, order}, at::kDouble).clone();
  };
  const int64_t longest = Size(256, 16);
  const nlohmann::json golden =
      nlohmann::json::parse(std::ifstream(testing::SourcePath("tests/kernels/golden/windows.json")));
  int of_longest = 0;
  for (const nlohmann::json& entry : golden.at("cases")) {
    const int64_t order = entry.at("order"), length = entry.at("length");
    if (length > longest) continue;
    const std::string kind = entry.at("kind");
    options.window = Window{length, length};
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        const Eigenvalues found,
        ComputeEigenvalues({Dense{steps_of(kind, order, length, entry.at("seed")).to(kCuda)}}, options));
    EXPECT_TRUE(found.log_magnitude.is_cuda());
    const std::vector<double> log_magnitude = entry.at("log_magnitude"), phase = entry.at("phase");
    std::vector<std::complex<double>> expected;
    for (int64_t i = 0; i < order; ++i) expected.emplace_back(log_magnitude[i], phase[i]);
    EXPECT_LT(WorstOfWindows(found, expected, order), 1e-9)
        << kind << ", order " << order << ", length " << length;
    of_longest += length == longest;
  }
  EXPECT_GE(of_longest, 2);
  for (const int64_t order : OrdersOf({2, 16, 33}, {5})) {
    options.window = Window{longest, 17};
    const at::Tensor matrices = steps_of("gated", order, longest + 40, 7);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found,
                                ComputeEigenvalues({Dense{matrices.to(kCuda)}}, options));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues expected, ComputeEigenvalues({Dense{matrices}}, options));
    EXPECT_LT(WorstOfWindows(found, Logs(expected), order), 1e-9) << order;
  }
}

}  // namespace
}  // namespace eigsvc
