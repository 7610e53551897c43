// The CUDA counts of eigenvalues against the bits of their plain CPU twin, on a GPU.
#include <cmath>
#include <iterator>

#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/full.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/zeros.h"
#include "c10/core/DeviceGuard.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "gtest/gtest.h"
#include "models/kernels/spectrum_counts.h"
#include "tests/gpu/gpu_kernels.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using testing::CurrentStream;
using testing::kCuda;
using testing::Size;

// Of [B,T,U,K], of any strides.
template <typename T>
void CheckCountsOf(const at::Tensor& wide, bool with_phase, uint64_t weight,
                   const at::Tensor& wide_factors = {}) {
  const auto type = c10::CppTypeToScalarType<T>::value;
  const at::Tensor values = wide.to(type),
                   factors = wide_factors.defined() ? wide_factors.to(type) : wide_factors;
  const int64_t rows = values.size(0), steps = values.size(1), units = values.size(2),
                per_unit = factors.defined() ? factors.size(1) : values.size(3);
  at::Tensor phase = at::randn({rows, steps, units, per_unit}, at::kDouble) * 4;
  phase.view(-1).narrow(0, 0, phase.numel() / 4).fill_(0);
  const at::Tensor lengths = at::arange(rows, at::kLong).remainder(4) * -1 + steps;
  const at::Tensor floor = at::full({1}, 2e-5, at::kDouble);
  at::Tensor slots[2], cells[2];
  for (const bool on_device : {false, true}) {
    const auto place = [&](const at::Tensor& x) { return on_device ? x.to(kCuda) : x; };
    const at::Tensor x = place(values), p = place(phase), l = place(lengths), f = place(floor),
                     m = factors.defined() ? place(factors) : factors;
    at::Tensor& table = slots[on_device] = place(at::zeros({units, spectrum_slots::kSlots}, at::kLong));
    at::Tensor& grid = cells[on_device] = place(at::zeros({units, spectrum_slots::kPhaseSlots}, at::kLong));
    CountProblem<T> problem;
    problem.parts[0] = {x.const_data_ptr<T>(), with_phase ? p.const_data_ptr<double>() : nullptr,
                        f.const_data_ptr<double>(), m.defined() ? m.const_data_ptr<T>() : nullptr};
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
  CheckCounts<double>(1, Size(70000, 7000), 2, 2, false, 98765432109);
}

// What whole warps count together: usual values, a row's steps side by side or not, rows that begin anywhere.
template <typename T>
void CheckUsualCounts() {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const auto steps_inside = [](const at::Tensor& x) { return x.transpose(1, 2); };
  for (const double edge : {0.0, std::log(0.1), std::log(0.5), std::log(0.9), std::log(0.99), std::log(1.01),
                            std::log(10), std::log(100), 2e-5}) {
    at::Tensor near =
        at::randn({3, 2, Size(9001, 2001), 1}, options) * (edge == 0 ? 1 : 1e-3 * std::abs(edge)) + edge;
    near.view(-1).narrow(0, 1000, 500).fill_(edge == 0 ? -0.37 : edge);
    CheckCountsOf<T>(steps_inside(near), false, 1);
  }
  CheckCountsOf<T>(steps_inside(at::full({2, 3, 5000, 1}, -0.37, options)), false, 7);
  CheckCountsOf<T>(at::randn({2, 700, 3, 16}, options), false, 1);                // nested
  CheckCountsOf<T>(at::randn({2, 9001, 3, 1}, options), false, 1);                // strided
  CheckCountsOf<T>(steps_inside(at::randn({2, 3, 700, 16}, options)), false, 1);  // contiguous
  // The largest moments, as many as a block takes, and those beyond the bins.
  CheckCountsOf<T>(steps_inside(at::full({1, 1, Size(int64_t{1} << 23, 1 << 15), 1}, 4095.9, options)), false,
                   1);
  CheckCountsOf<T>(steps_inside(at::full({1, 1, Size(int64_t{1} << 23, 1 << 15), 1}, -1e30, options)), false,
                   1);
  CheckCountsOf<T>(steps_inside(at::full({1, 1, 100000, 1}, 1e-20, options)), false, 1);
}

TEST(KernelsGpuTest, CountsOfWholeWarpsHaveTheBitsOfTheTwin) {
  CheckUsualCounts<float>();
  CheckUsualCounts<double>();
}

// Factors that share a warp evenly and others, usual products and such as a factor of 0 makes.
TEST(KernelsGpuTest, CountsOfFactorsHaveTheBitsOfTheTwin) {
  for (const int64_t count : {1, 3, 16, 32, 40}) {
    at::Tensor deltas = at::rand({2, 3001, 5, 1}, at::kDouble) * 0.1,
               factors = -20 * at::rand({5, count}, at::kDouble);
    CheckCountsOf<float>(deltas, false, 1, factors);
    CheckCountsOf<double>(deltas, false, 3, factors);
    factors.view(-1)[0] = 0;
    deltas.view(-1).narrow(0, 100, 50).fill_(HUGE_VAL);
    CheckCountsOf<float>(deltas.transpose(1, 2).contiguous().transpose(1, 2), false, 1, factors);
  }
}

// Of log η [B,T+1,U], of any strides, in parts that begin a step apart; with a step before of other strides.
template <typename T>
void CheckCountsOfDifferences(const at::Tensor& wide, int64_t first, uint64_t weight) {
  const auto type = c10::CppTypeToScalarType<T>::value;
  const at::Tensor log_eta = wide.to(type);
  const int64_t rows = log_eta.size(0), steps = log_eta.size(1) - 1, units = log_eta.size(2);
  const at::Tensor previous = at::randn({units, rows, 2}, at::kDouble).to(type);
  const at::Tensor lengths = at::arange(rows, at::kLong).remainder(4) * -1 + steps + 3;
  const at::Tensor floor = at::full({1}, 2e-5, at::kDouble);
  at::Tensor slots[2];
  for (const bool on_device : {false, true}) {
    const auto place = [&](const at::Tensor& x) { return on_device ? x.to(kCuda) : x; };
    const at::Tensor x = place(log_eta), p = place(previous), l = place(lengths), f = place(floor);
    ASSERT_EQ(x.strides(), log_eta.strides());
    at::Tensor& table = slots[on_device] = place(at::zeros({2 * units, spectrum_slots::kSlots}, at::kLong));
    CountProblem<T> problem;
    for (const int part : {0, 1}) {
      problem.parts[part] = {x.const_data_ptr<T>() + part * x.stride(1), nullptr, f.const_data_ptr<double>(),
                             nullptr, p.const_data_ptr<T>() + part};
    }
    problem.part_count = 2;
    problem.rows = rows;
    problem.steps = steps;
    problem.units = units;
    problem.per_unit = 1;
    problem.row_stride = x.stride(0);
    problem.step_stride = x.stride(1);
    problem.unit_stride = x.stride(2);
    problem.previous_row_stride = p.stride(1);
    problem.previous_unit_stride = p.stride(0);
    problem.lengths = l.const_data_ptr<int64_t>();
    problem.offset = 3;
    problem.first = first;
    problem.weight = weight;
    problem.slots = reinterpret_cast<uint64_t*>(table.mutable_data_ptr<int64_t>());
    if (on_device) {
      EIGSVC_EXPECT_OK(CountOnCuda(problem, CurrentStream()));
    } else {
      CountPlainly(problem);
    }
  }
  for (int64_t unit = 0; unit < 2 * units; ++unit) {
    const auto spectrum = [&](int side) {
      const at::Tensor table = slots[side][unit].cpu();
      return SpectrumOfSlots(reinterpret_cast<const uint64_t*>(table.const_data_ptr<int64_t>()), nullptr);
    };
    EXPECT_EQ(spectrum(1).parts(), spectrum(0).parts())
        << "part " << unit / units << ", unit " << unit % units;
    EXPECT_GT(spectrum(1).count(), 10u);
  }
}

// Rows of less than a warp's round, of some, and of more than a segment, that begin at any address.
TEST(KernelsGpuTest, CountsOfDifferencesHaveTheBitsOfTheTwin) {
  for (const int64_t steps : {int64_t{30}, int64_t{258}, int64_t{1023}, Size(9001, 2001)}) {
    for (const int64_t first : {0, 1, 7}) {
      at::Tensor log_eta = at::randn({3, 5, steps + 1}, at::kDouble).cumsum(-1);
      CheckCountsOfDifferences<float>(log_eta.transpose(1, 2), first, 1);
      CheckCountsOfDifferences<double>(log_eta.transpose(1, 2), first, 98765432109);
      CheckCountsOfDifferences<float>(log_eta.transpose(1, 2).contiguous(), first, 3);
      log_eta.slice(2, 2, steps, 11).fill_(HUGE_VAL);
      log_eta.slice(2, 5, steps, 13).fill_(NAN);
      log_eta.slice(2, 9, steps, 17).copy_(log_eta.slice(2, 8, steps - 1, 17));
      CheckCountsOfDifferences<float>(log_eta.transpose(1, 2), first, 1);
      CheckCountsOfDifferences<double>(log_eta.transpose(1, 2).contiguous(), first, 1);
    }
  }
}

// Steps of one sequence counted in two parts, each on a device of its own, or on the one there is.
TEST(KernelsGpuTest, CountsOfTwoDevicesMergeToThoseOfOne) {
  const c10::Device second(c10::kCUDA, c10::impl::VirtualGuardImpl(c10::kCUDA).deviceCount() > 1 ? 1 : 0);
  const int64_t steps = 50001, cut = 20011;
  const at::Tensor values = at::randn({1, steps, 1, 1}, at::kDouble) * 3;
  const auto count = [&](const c10::Device& device, int64_t first, int64_t end) {
    const c10::DeviceGuard guard(device);
    const at::Tensor part = values.narrow(1, first, end - first).to(device),
                     floor = at::full({1}, 1e-5, part.options());
    const at::Tensor slots = at::zeros({1, spectrum_slots::kSlots}, part.options().dtype(at::kLong));
    CountProblem<double> problem;
    problem.parts[0] = {part.const_data_ptr<double>(), nullptr, floor.const_data_ptr<double>()};
    problem.rows = problem.units = problem.per_unit = problem.step_stride = problem.value_stride = 1;
    problem.steps = end - first;
    problem.slots = reinterpret_cast<uint64_t*>(slots.mutable_data_ptr<int64_t>());
    EIGSVC_EXPECT_OK(
        CountOnCuda(problem, c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(device).native_handle()));
    const at::Tensor table = slots.cpu();
    return SpectrumOfSlots(reinterpret_cast<const uint64_t*>(table.const_data_ptr<int64_t>()), nullptr);
  };
  Spectrum merged = count(second, cut, steps);
  merged.Merge(count(kCuda, 0, cut));
  EXPECT_EQ(merged.parts(), count(kCuda, 0, steps).parts());
}

}  // namespace
}  // namespace eigsvc
