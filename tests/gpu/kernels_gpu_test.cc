// The CUDA kernels against their plain CPU twins, on a GPU.
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/from_blob.h"
#include "ATen/ops/full.h"
#include "ATen/ops/linalg_eigvals.h"
#include "ATen/ops/nan_to_num.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/real.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/where.h"
#include "ATen/ops/zeros.h"
#include "ATen/ops/zeros_like.h"
#include "c10/core/DeviceGuard.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "gtest/gtest.h"
#include "models/kernels/accurate_lse.h"
#include "models/kernels/batched_eigenvalues.h"
#include "models/kernels/cuda_dispatch.h"
#include "models/kernels/rank_one_eigenvalues.h"
#include "models/kernels/spectrum_counts.h"
#include "models/transition/dense_eigenvalues.h"
#include "models/transition/eigenvalues.h"
#include "models/transition/kernel_call.h"
#include "models/transition/softmax.h"
#include "models/transition/symmetric_rank_one.h"
#include "tests/kernels/backward_error.h"
#include "tests/kernels/matrix_kinds.h"
#include "tests/kernels/relative_errors.h"
#include "tests/kernels/window_factors.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

const c10::Device kCuda(c10::kCUDA, 0);

// Under a checker, which makes a kernel up to a hundred times slower, the same paths on less.
const bool kSmall = std::getenv("EIGSVC_SMALL_KERNELS") != nullptr;
int64_t Size(int64_t usual, int64_t small) { return kSmall ? small : usual; }
using Orders = std::vector<int64_t>;
Orders OrdersOf(Orders usual, Orders small) { return kSmall ? std::move(small) : std::move(usual); }

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
using SolveBy = absl::Status (*)(const EigenProblem<T>&, void*);

struct Solved {
  at::Tensor values, outcomes;  // [count,order] complex128, [count] int32
};

template <typename T>
Solved OutcomesOnCuda(const at::Tensor& matrices, SolveBy<T> solve, int most_sweeps) {
  const at::Tensor device = matrices.to(kCuda, c10::CppTypeToScalarType<T>::value).contiguous();
  const int64_t count = device.size(0), order = device.size(1);
  const at::Tensor real = at::full({count, order}, -77, device.options()), imaginary = real.clone();
  const at::Tensor outcomes = at::full({count}, -1, device.options().dtype(at::kInt));
  EIGSVC_EXPECT_OK(solve({device.const_data_ptr<T>(), count, static_cast<int>(order),
                          real.mutable_data_ptr<T>(), imaginary.mutable_data_ptr<T>(),
                          reinterpret_cast<EigenOutcome*>(outcomes.mutable_data_ptr<int32_t>()), most_sweeps},
                         CurrentStream()));
  return {at::complex(real.to(at::kDouble), imaginary.to(at::kDouble)).cpu(), outcomes.cpu()};
}

template <typename T>
at::Tensor SolveOnCuda(const at::Tensor& matrices, SolveBy<T> solve = EigenvaluesOnCuda<T>) {
  const Solved solved = OutcomesOnCuda<T>(matrices, solve, 0);
  EXPECT_TRUE((solved.outcomes == 0).all().item<bool>());
  return solved.values;
}

TEST(KernelsGpuTest, EigenvaluesOfRandomMatricesEqualLapacks) {
  // 8, 16 and 32 lanes and 4 and 5 warps a matrix, with and without idle ones.
  for (const int64_t order :
       OrdersOf({1, 2, 3, 5, 8, 9, 16, 17, 31, 32, 33, 48, 64, 65, 96, 97, 100, 127, 128},
                {1, 2, 5, 8, 13, 16, 27, 33, 64, 100})) {
    // More than one wave of blocks, and no multiple of a block.
    const int64_t count = order <= 32 ? Size(1003, 11) : Size(131, 2);
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

// As batched_eigenvalues_test.cc asks of the CPU's forms.
template <typename T>
void CheckBackwardErrors(int64_t order, SolveBy<T> solve = EigenvaluesOnCuda<T>) {
  constexpr int64_t kOfEach = 3;
  constexpr size_t kMostValues = 16;
  testing::RandomBits bits(order);
  std::vector<at::Tensor> made;
  for (const testing::MatrixKind& kind : testing::kMatrixKinds) {
    for (int i = 0; i < kOfEach; ++i) {
      testing::Matrix matrix = kind.make(static_cast<int>(order), i, bits);
      made.push_back(at::from_blob(matrix.data(), {order, order}, at::kDouble).clone());
    }
  }
  const at::Tensor matrices = at::stack(made).to(c10::CppTypeToScalarType<T>::value).to(at::kDouble);
  const at::Tensor found = SolveOnCuda<T>(matrices, solve);
  for (int64_t i = 0; i < found.size(0); ++i) {
    const auto* values = static_cast<const std::complex<double>*>(found.const_data_ptr()) + i * order;
    EXPECT_LE(testing::BackwardError(matrices.const_data_ptr<double>() + i * order * order, order,
                                     {values, values + order}, kMostValues) /
                  std::numeric_limits<T>::epsilon(),
              20)
        << testing::kMatrixKinds[i / kOfEach].name << " " << i % kOfEach << " of order " << order << ", "
        << sizeof(T) << " bytes";
  }
}

TEST(KernelsGpuTest, EigenvaluesAreExactForANearbyMatrixOfEveryKind) {
  for (const int64_t order :
       OrdersOf({2, 3, 5, 8, 13, 16, 32, 33, 48, 64, 65, 96, 127, 128}, {2, 5, 16, 33})) {
    CheckBackwardErrors<float>(order);
    CheckBackwardErrors<double>(order);
  }
}

// Each of the two forms at orders that the other one takes.
TEST(KernelsGpuTest, WarpsAndBlocksSolveWhatTheOtherTakes) {
  for (const int64_t order : OrdersOf({1, 2, 3, 4, 5, 16, 20, 21, 32, 33, 48, 64}, {4, 21, 64})) {
    CheckBackwardErrors<float>(order, kernels::EigenvaluesByBlocks<float>);
    CheckBackwardErrors<double>(order, kernels::EigenvaluesByBlocks<double>);
  }
  for (const int64_t order : OrdersOf({65, 96, 128}, {65})) {
    CheckBackwardErrors<float>(order, kernels::EigenvaluesByWarps<float>);
    CheckBackwardErrors<double>(order, kernels::EigenvaluesByWarps<double>);
  }
}

// What converges without a sweep, what does not within two, and what is no number, side by side.
template <typename T>
void CheckOutcomes(int64_t order) {
  const int64_t count = Size(67, 5);
  at::Tensor matrices = at::randn({count, order, order}, at::kDouble).to(c10::CppTypeToScalarType<T>::value);
  for (int64_t i = 0; i < count; i += 3) matrices[i].triu_();
  matrices[2][order - 1][order / 2].fill_(std::numeric_limits<double>::quiet_NaN());
  matrices[4][order / 2][order - 1].fill_(-std::numeric_limits<double>::infinity());
  const Solved solved = OutcomesOnCuda<T>(matrices, EigenvaluesOnCuda<T>, /*most_sweeps=*/2);
  for (int64_t i = 0; i < count; ++i) {
    const EigenOutcome expected = i == 2 || i == 4 ? EigenOutcome::kNotFinite
                                  : i % 3 == 0     ? EigenOutcome::kConverged
                                                   : EigenOutcome::kNotConverged;
    EXPECT_EQ(solved.outcomes[i].item<int32_t>(), static_cast<int32_t>(expected)) << i << " of " << order;
    if (expected == EigenOutcome::kNotFinite) {
      EXPECT_TRUE(at::real(solved.values[i]).isnan().all().item<bool>()) << i << " of " << order;
    } else if (expected == EigenOutcome::kConverged) {
      const at::Tensor diagonal = matrices[i].diagonal().to(at::kDouble);
      EXPECT_EQ(Distance(solved.values[i].contiguous(), at::complex(diagonal, at::zeros_like(diagonal))), 0)
          << i << " of " << order;
    }
  }
}

TEST(KernelsGpuTest, OutcomesAreOfEachMatrixAlone) {
  for (const int64_t order : OrdersOf({7, 16, 32, 33, 48, 64, 65, 96, 127, 128}, {16, 65})) {
    CheckOutcomes<float>(order);
    CheckOutcomes<double>(order);
  }
}

TEST(KernelsGpuTest, DenseEigenvaluesTakeTheKernelAndNameWhatIsNotFinite) {
  at::Tensor matrices = at::randn({7, 3, 12, 12}, at::kDouble);
  matrices[2][1][0][5].fill_(std::numeric_limits<double>::quiet_NaN());
  matrices[6][0][11][11].fill_(-std::numeric_limits<double>::infinity());
  int64_t redone = 0;
  const at::Tensor found = DenseEigenvalues(matrices.to(kCuda), &redone).cpu(),
                   expected = DenseEigenvalues(matrices, &redone);
  EXPECT_EQ(redone, 0);
  ASSERT_EQ(found.sizes(), expected.sizes());
  for (int64_t i = 0; i < 7; ++i) {
    for (int64_t j = 0; j < 3; ++j) {
      if ((i == 2 && j == 1) || (i == 6 && j == 0)) {
        EXPECT_TRUE(at::real(found[i][j]).isnan().all().item<bool>());
      } else {
        EXPECT_LE(Distance(found[i][j].contiguous(), expected[i][j].contiguous()), 1e-11);
      }
    }
  }
}

TEST(KernelsGpuTest, WhatDoesNotConvergeIsRedoneOnTheHostAndCounted) {
  for (const int64_t order : {5, 12, 33, 65}) {
    at::Tensor matrices = at::randn({40, order, order}, at::kDouble) / std::sqrt(static_cast<double>(order));
    matrices[7].triu_();  // converges without a sweep
    int64_t redone = 0;
    const at::Tensor found = DenseEigenvalues(matrices.to(kCuda), &redone, /*most_sweeps=*/1);
    EXPECT_TRUE(found.is_cuda());
    EXPECT_EQ(redone, 39) << order;
    for (int64_t i = 0; i < 40; ++i) {
      EXPECT_LE(Distance(found[i].cpu().contiguous(), at::linalg_eigvals(matrices[i]).contiguous()), 1e-9)
          << order;
    }
  }
}

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

template <typename T>
void CheckRankOne(const at::Tensor& wide_d, const at::Tensor& wide_z) {
  const auto type = c10::CppTypeToScalarType<T>::value;
  const at::Tensor d = wide_d.to(type).contiguous(), z = wide_z.to(type).contiguous();
  const int64_t count = d.size(0), order = d.size(1);
  at::Tensor values[2], outcomes[2];
  for (const bool on_device : {false, true}) {
    const at::Tensor a = on_device ? d.to(kCuda) : d, b = on_device ? z.to(kCuda) : z;
    values[on_device] = at::full({count, order}, -77, a.options());
    outcomes[on_device] = at::full({count}, -1, a.options().dtype(at::kInt));
    const RankOneProblem<T> problem = {
        a.const_data_ptr<T>(),
        b.const_data_ptr<T>(),
        count,
        static_cast<int>(order),
        values[on_device].mutable_data_ptr<T>(),
        reinterpret_cast<EigenOutcome*>(outcomes[on_device].mutable_data_ptr<int32_t>())};
    EIGSVC_EXPECT_OK(on_device ? RankOneEigenvaluesOnCuda(problem, CurrentStream())
                               : RankOneEigenvaluesOnCpu(problem));
  }
  EXPECT_TRUE((outcomes[1].cpu() == outcomes[0]).all().item<bool>()) << order;
  const at::Tensor found = values[1].cpu().to(at::kDouble), twin = values[0].to(at::kDouble);
  EXPECT_TRUE((found.isnan() == twin.isnan()).all().item<bool>()) << order;
  const at::Tensor norm = (wide_d.abs().amax({-1}) + wide_z.square().sum({-1}))
                              .nan_to_num(1, 1, 1)
                              .clamp_min(std::numeric_limits<double>::min());  // of d = z = 0
  const double off = ((found - twin).abs().nan_to_num(0).amax({-1}) / norm).max().item<double>();
  EXPECT_LE(off, 40 * std::numeric_limits<T>::epsilon()) << order;  // each within 20 of the truth
}

TEST(KernelsGpuTest, RankOneEigenvaluesEqualTheTwins) {
  for (const int64_t order :
       OrdersOf({1, 2, 3, 8, 9, 16, 17, 33, 64, 100, 256, 1024}, {1, 3, 8, 17, 33, 100, 256})) {
    const int64_t count = order <= 64 ? Size(1003, 9) : Size(37, 7);
    const auto normal = [&] { return at::randn({count, order}, at::kDouble); };
    const at::Tensor some = normal() * (normal() < -0.5), repeated = (normal() * 2).floor();
    at::Tensor bad = normal();
    bad[5][0].fill_(NAN);
    bad[6][order - 1].fill_(-HUGE_VAL);
    for (const auto& [d, z] :
         {std::pair(normal(), normal()), std::pair(normal(), some), std::pair(repeated, some),
          std::pair(repeated, normal()), std::pair(bad, normal()), std::pair(normal(), bad)}) {
      CheckRankOne<float>(d, z);
      CheckRankOne<double>(d, z);
    }
    const at::Tensor d = normal(), z = normal();
    EXPECT_LE((SymmetricRankOne(d.to(kCuda), z.to(kCuda)).cpu() - SymmetricRankOne(d, z))
                  .abs()
                  .max()
                  .item<double>(),
              1e-13 * static_cast<double>(order));
  }
}

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

// Steps of one sequence counted in two parts, each on a device of its own, or on the one there is.
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

// `lse` [B,H,T] of heads q [B,H,T,D] and k [B,Hkv,S,D].
LseProblem ProblemOf(const at::Tensor& q, const at::Tensor& k, const at::Tensor& norms,
                     const at::Tensor& lse) {
  const auto rows = [](const at::Tensor& x) {
    return HeadRows{x.const_data_ptr(), x.size(1), x.size(2), x.stride(0), x.stride(1), x.stride(2)};
  };
  LseProblem problem;
  problem.element = *ElementOf(q.scalar_type());
  problem.batch = q.size(0);
  problem.size = q.size(3);
  problem.q = rows(q);
  problem.k = rows(k);
  problem.scale = 1 / std::sqrt(static_cast<double>(q.size(3)));
  problem.squared_norms = norms.const_data_ptr<double>();
  problem.least_bound = 20;
  problem.lse = lse.mutable_data_ptr<float>();
  problem.lse_batch_stride = lse.stride(0);
  problem.lse_head_stride = lse.stride(1);
  problem.lse_row_stride = lse.stride(2);
  return problem;
}

// Heads of every size and alignment, more than one block of rows, a chunk behind earlier keys, windows,
// sinks.
TEST(KernelsGpuTest, LogSumExpsOfLargeScoresAreTheTwins) {
  constexpr int64_t kHeads = 4, kGroups = 2;
  const int64_t steps = Size(149, 67);
  for (const c10::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const int64_t size : {12, 32, 64, 80, 128, 256}) {
      for (const int64_t variant : {0, 1, 2}) {
        const bool odd = variant == 1;  // rows that are not aligned
        const int64_t earlier = variant == 2 ? 62 : 0;
        const auto normal = [&](int64_t heads, int64_t rows, double by) {
          return (at::randn({1, rows, heads, size + odd}, at::kDouble) * by).to(type);
        };
        const auto heads_of = [&](const at::Tensor& x) { return x.transpose(1, 2).narrow(3, 0, size); };
        const at::Tensor q = normal(kHeads, steps, 6), k = normal(kGroups, steps + earlier, 1);
        const at::Tensor norms = at::full({kHeads + kGroups}, 1e4, at::kDouble),
                         sinks = at::randn({kHeads}) * 20;
        norms[2] = 1e-9;  // scores of this head are small
        const at::Tensor expected = at::full({1, kHeads, steps}, -77, at::kFloat);
        LseProblem twin = ProblemOf(heads_of(q), heads_of(k), norms, expected);
        twin.window = variant == 1 ? 40 : 0;
        if (variant == 2) twin.sinks = sinks.const_data_ptr<float>();
        RefineLsePlainly(twin);
        EXPECT_TRUE((expected.select(1, 2) == -77).all().item<bool>());

        const at::Tensor q_device = q.to(kCuda), k_device = k.to(kCuda), norms_device = norms.to(kCuda),
                         sinks_device = sinks.to(kCuda);
        // From a first answer that is off by half, rows that are longer than they need be.
        const at::Tensor before = expected + at::rand({1, kHeads, steps}) - 0.5;
        const at::Tensor room = at::zeros({1, kHeads, steps + 5}, before.options().device(kCuda)),
                         found = room.narrow(2, 0, steps);
        found.copy_(before);
        LseProblem problem = ProblemOf(heads_of(q_device), heads_of(k_device), norms_device, found);
        problem.window = twin.window;
        if (twin.sinks != nullptr) problem.sinks = sinks_device.const_data_ptr<float>();
        EIGSVC_ASSERT_OK(RefineLseOnCuda(problem, CurrentStream()));
        const at::Tensor answer = found.cpu();
        EXPECT_TRUE((answer.select(1, 2) == before.select(1, 2)).all().item<bool>());  // as it was
        found.copy_(before);
        problem.least_lse = before.abs().median().item<float>();
        EIGSVC_ASSERT_OK(RefineLseOnCuda(problem, CurrentStream()));
        EXPECT_TRUE(
            (found.cpu() == at::where(before.abs() <= problem.least_lse, before, answer)).all().item<bool>());
        answer.select(1, 2).copy_(expected.select(1, 2));
        EXPECT_TRUE((room.narrow(2, steps, 5) == 0).all().item<bool>());
        // 2 ulp of the largest.
        const double largest = expected.abs().max().item<double>();
        EXPECT_LE((answer - expected).abs().max().item<double>(), std::exp2(std::ilogb(largest) - 22))
            << c10::toString(type) << ", heads of " << size << ", variant " << variant;
      }
    }
  }
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
        const at::Tensor floor = BoundScores(q.to(kCuda), k.to(kCuda), -0.07, cap).noise_floor;
        ASSERT_TRUE(floor.is_cuda());
        EXPECT_EQ(floor.item<double>(), BoundScores(q, k, -0.07, cap).noise_floor.item<double>())
            << c10::toString(type) << ", " << size;
      }
    }
  }
}

}  // namespace
}  // namespace eigsvc
