// The CUDA kernels against their plain CPU twins, on a GPU.
#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/full.h"
#include "ATen/ops/linalg_eigvals.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/real.h"
#include "ATen/ops/zeros.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "gtest/gtest.h"
#include "models/kernels/batched_eigenvalues.h"
#include "models/kernels/spectrum_counts.h"
#include "models/transition/dense_eigenvalues.h"
#include "models/transition/softmax.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

const c10::Device kCuda(c10::kCUDA, 0);

void* CurrentStream() { return c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(kCuda).native_handle(); }

// The largest distance of matched pairs of [N] complex values, nearest first.
double Distance(const at::Tensor& found, const at::Tensor& expected) {
  const auto* data = static_cast<const std::complex<double>*>(expected.const_data_ptr());
  std::vector<std::complex<double>> left(data, data + expected.numel());
  const auto* values = static_cast<const std::complex<double>*>(found.const_data_ptr());
  double worst = 0;
  for (int64_t i = 0; i < found.numel(); ++i) {
    const auto nearest = std::min_element(left.begin(), left.end(), [&](const auto& a, const auto& b) {
      return std::abs(a - values[i]) < std::abs(b - values[i]);
    });
    worst = std::max(worst, std::abs(*nearest - values[i]));
    left.erase(nearest);
  }
  return worst;
}

template <typename T>
at::Tensor SolveOnCuda(const at::Tensor& matrices) {
  const at::Tensor device = matrices.to(kCuda, c10::CppTypeToScalarType<T>::value).contiguous();
  const int64_t count = device.size(0), order = device.size(1);
  const at::Tensor real = at::full({count, order}, -77, device.options()), imaginary = real.clone();
  const at::Tensor outcomes = at::full({count}, -1, device.options().dtype(at::kInt));
  EIGSVC_EXPECT_OK(
      EigenvaluesOnCuda<T>({device.const_data_ptr<T>(), count, static_cast<int>(order),
                            real.mutable_data_ptr<T>(), imaginary.mutable_data_ptr<T>(),
                            reinterpret_cast<EigenOutcome*>(outcomes.mutable_data_ptr<int32_t>())},
                           CurrentStream()));
  EXPECT_TRUE((outcomes == 0).all().item<bool>());
  return at::complex(real.to(at::kDouble), imaginary.to(at::kDouble)).cpu();
}

TEST(KernelsGpuTest, EigenvaluesOfRandomMatricesEqualLapacks) {
  for (const int64_t order : {1, 2, 3, 5, 8, 9, 16, 17, 31, 32, 33, 64, 100, 128}) {
    // More than one wave of blocks, and no multiple of a block.
    const int64_t count = order <= 32 ? 1003 : 131;
    const at::Tensor matrices = at::randn({count, order, order}, at::kDouble).to(at::kFloat).to(at::kDouble) /
                                std::sqrt(static_cast<double>(order));
    const at::Tensor narrow = SolveOnCuda<float>(matrices), wide = SolveOnCuda<double>(matrices);
    for (int64_t i = 0; i < count; i += order <= 32 ? 50 : 10) {
      const double norm = matrices[i].norm().item<double>();
      const at::Tensor expected = at::linalg_eigvals(matrices[i]).contiguous();
      EXPECT_LE(Distance(narrow[i].contiguous(), expected), 3000 * 0x1p-23 * norm) << "order " << order;
      EXPECT_LE(Distance(wide[i].contiguous(), expected), 3000 * 0x1p-52 * norm) << "order " << order;
    }
    // Whatever a spot check misses: the traces of all.
    const at::Tensor trace = matrices.diagonal(0, 1, 2).sum(-1);
    EXPECT_LE((at::real(wide).sum(-1) - trace).abs().max().item<double>(), 1e-11 * order) << order;
    EXPECT_LE((at::real(narrow).sum(-1) - trace).abs().max().item<double>(), 1e-4 * order) << order;
  }
}

TEST(KernelsGpuTest, DenseEigenvaluesTakeTheKernelAndNameWhatIsNotFinite) {
  at::Tensor matrices = at::randn({7, 3, 12, 12}, at::kDouble);
  matrices[2][1][0][5].fill_(std::numeric_limits<double>::quiet_NaN());
  const at::Tensor found = DenseEigenvalues(matrices.to(kCuda)).cpu(), expected = DenseEigenvalues(matrices);
  ASSERT_EQ(found.sizes(), expected.sizes());
  for (int64_t i = 0; i < 7; ++i) {
    for (int64_t j = 0; j < 3; ++j) {
      if (i == 2 && j == 1) {
        EXPECT_TRUE(at::real(found[i][j]).isnan().all().item<bool>());
      } else {
        EXPECT_LE(Distance(found[i][j].contiguous(), expected[i][j].contiguous()), 1e-11);
      }
    }
  }
}

// Of [B,T,U,K], of any strides.
template <typename T>
void CheckCountsOf(const at::Tensor& wide, bool with_phase, uint64_t weight) {
  const at::Tensor values = wide.to(c10::CppTypeToScalarType<T>::value);
  const int64_t rows = values.size(0), steps = values.size(1), units = values.size(2),
                per_unit = values.size(3);
  at::Tensor phase = at::randn({rows, steps, units, per_unit}, at::kDouble) * 4;
  phase.view(-1).narrow(0, 0, phase.numel() / 4).fill_(0);
  const at::Tensor lengths = at::arange(rows, at::kLong).remainder(4) * -1 + steps;
  const at::Tensor floor = at::full({1}, 2e-5, at::kDouble);
  at::Tensor slots[2], cells[2];
  for (const bool on_device : {false, true}) {
    const auto place = [&](const at::Tensor& x) { return on_device ? x.to(kCuda) : x; };
    const at::Tensor x = place(values), p = place(phase), l = place(lengths), f = place(floor);
    at::Tensor& table = slots[on_device] = place(at::zeros({units, spectrum_slots::kSlots}, at::kLong));
    at::Tensor& grid = cells[on_device] = place(at::zeros({units, spectrum_slots::kPhaseSlots}, at::kLong));
    CountProblem<T> problem;
    problem.parts[0] = {x.const_data_ptr<T>(), with_phase ? p.const_data_ptr<double>() : nullptr,
                        f.const_data_ptr<double>()};
    problem.rows = rows;
    problem.steps = steps;
    problem.units = units;
    problem.per_unit = per_unit;
    problem.row_stride = x.stride(0);
    problem.step_stride = x.stride(1);
    problem.unit_stride = x.stride(2);
    problem.value_stride = x.stride(3);
    problem.lengths = l.const_data_ptr<int64_t>();
    problem.first = 1;
    problem.weight = weight;
    problem.slots = reinterpret_cast<uint64_t*>(table.mutable_data_ptr<int64_t>());
    problem.phase_slots = reinterpret_cast<uint64_t*>(grid.mutable_data_ptr<int64_t>());
    if (on_device) {
      EIGSVC_EXPECT_OK(CountOnCuda(problem, CurrentStream()));
      EIGSVC_EXPECT_OK(CountOnCuda(problem, CurrentStream()));
    } else {
      CountPlainly(problem);
      CountPlainly(problem);
    }
  }
  for (int64_t unit = 0; unit < units; ++unit) {
    const auto spectrum = [&](int side) {
      const at::Tensor table = slots[side][unit].cpu(), grid = cells[side][unit].cpu();
      return SpectrumOfSlots(reinterpret_cast<const uint64_t*>(table.const_data_ptr<int64_t>()),
                             reinterpret_cast<const uint64_t*>(grid.const_data_ptr<int64_t>()));
    };
    EXPECT_EQ(spectrum(1).parts(), spectrum(0).parts()) << "unit " << unit;
    EXPECT_GT(spectrum(1).count(), 10u);
  }
}

template <typename T>
void CheckCounts(int64_t rows, int64_t steps, int64_t units, int64_t per_unit, bool with_phase,
                 uint64_t weight) {
  // Spread over the bins, with ties, atoms and what is no number.
  at::Tensor values = (at::randn({rows, steps, units, per_unit}, at::kDouble) * 6).exp2() *
                      at::randn({rows, steps, units, per_unit}, at::kDouble).sign();
  at::Tensor flat = values.view(-1);
  const double special[] = {0,
                            -HUGE_VAL,
                            HUGE_VAL,
                            NAN,
                            std::log(0.1),
                            std::log(0.5),
                            std::log(0.9),
                            std::log(0.99),
                            std::log(1.01),
                            std::log(10),
                            std::log(100),
                            1e-6,
                            1e300};
  for (int64_t i = 0; i < flat.numel() / 3; ++i) flat[i * 3].fill_(special[i % std::size(special)]);
  CheckCountsOf<T>(values, with_phase, weight);
}

TEST(KernelsGpuTest, CountsHaveTheBitsOfTheTwin) {
  CheckCounts<double>(3, 500, 4, 1, false, 1);
  CheckCounts<float>(5, 301, 3, 16, false, 1);
  CheckCounts<double>(2, 128, 5, 8, true, 2);
  CheckCounts<double>(1, 70000, 2, 2, false, 98765432109);
}

// What whole warps count together: usual values, a row's steps side by side or not, rows that begin anywhere.
template <typename T>
void CheckUsualCounts() {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const auto steps_inside = [](const at::Tensor& x) { return x.transpose(1, 2); };
  for (const double edge : {0.0, std::log(0.1), std::log(0.5), std::log(0.9), std::log(0.99), std::log(1.01),
                            std::log(10), std::log(100), 2e-5}) {
    at::Tensor near = at::randn({3, 2, 9001, 1}, options) * (edge == 0 ? 1 : 1e-3 * std::abs(edge)) + edge;
    near.view(-1).narrow(0, 1000, 500).fill_(edge == 0 ? -0.37 : edge);
    CheckCountsOf<T>(steps_inside(near), false, 1);
  }
  CheckCountsOf<T>(steps_inside(at::full({2, 3, 5000, 1}, -0.37, options)), false, 7);
  CheckCountsOf<T>(at::randn({2, 700, 3, 16}, options), false, 1);                // nested
  CheckCountsOf<T>(at::randn({2, 9001, 3, 1}, options), false, 1);                // strided
  CheckCountsOf<T>(steps_inside(at::randn({2, 3, 700, 16}, options)), false, 1);  // contiguous
  // The largest moments, as many as a block takes, and those beyond the bins.
  CheckCountsOf<T>(steps_inside(at::full({1, 1, int64_t{1} << 23, 1}, 4095.9, options)), false, 1);
  CheckCountsOf<T>(steps_inside(at::full({1, 1, int64_t{1} << 23, 1}, -1e30, options)), false, 1);
  CheckCountsOf<T>(steps_inside(at::full({1, 1, 100000, 1}, 1e-20, options)), false, 1);
}

TEST(KernelsGpuTest, CountsOfWholeWarpsHaveTheBitsOfTheTwin) {
  CheckUsualCounts<float>();
  CheckUsualCounts<double>();
}

TEST(KernelsGpuTest, TheNoiseFloorOfAttentionIsThatOfTheHost) {
  for (const c10::ScalarType type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    for (const int64_t size : {8, 20, 64, 80, 128, 256}) {  // vectors of every width, and none
      // 0.9 of a power of two: the rounding of a float32 sum is no matter.
      at::Tensor q = at::randn({2, 3000, 6, size}, at::kDouble),
                 k = at::randn({2, 4000, 3, size}, at::kDouble);
      q[1][2990][4].mul_(1000 / q[1][2990][4].norm());
      k[1][17][2].mul_(60 / k[1][17][2].norm());
      q = q.to(type).transpose(1, 2);
      k = k.to(type).transpose(1, 2);
      for (const double cap : {0.0, 200.0}) {
        const at::Tensor floor = SoftmaxNoiseFloor(q.to(kCuda), k.to(kCuda), -0.07, cap);
        ASSERT_TRUE(floor.is_cuda());
        EXPECT_EQ(floor.item<double>(), SoftmaxNoiseFloor(q, k, -0.07, cap).item<double>())
            << c10::toString(type) << ", " << size;
      }
    }
  }
}

}  // namespace
}  // namespace eigsvc
