// The CUDA eigenvalue kernels against LAPACK and their plain CPU twins, on a GPU.
#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/from_blob.h"
#include "ATen/ops/full.h"
#include "ATen/ops/linalg_eigvals.h"
#include "ATen/ops/nan_to_num.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/real.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/zeros_like.h"
#include "gtest/gtest.h"
#include "models/kernels/batched_eigenvalues.h"
#include "models/kernels/cuda_dispatch.h"
#include "models/kernels/rank_one_eigenvalues.h"
#include "models/transition/dense_eigenvalues.h"
#include "models/transition/symmetric_rank_one.h"
#include "tests/gpu/gpu_kernels.h"
#include "tests/kernels/backward_error.h"
#include "tests/kernels/matrix_kinds.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using testing::CurrentStream;
using testing::kCuda;
using testing::OrdersOf;
using testing::Size;

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

}  // namespace
}  // namespace eigsvc
