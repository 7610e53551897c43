#include "models/layers/selective_scan.h"

#include <cmath>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/empty.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "models/kernels/selective_scan.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::MaxDifference;
using testing::NormalTensor;
using testing::UniformTensor;

// B 2, T 37, C 5, N 3; all of float64 that float32 holds.
SelectiveScanInput Drawn() {
  Random random({7});
  const auto narrow = [](const at::Tensor& t) { return t.to(at::kFloat).to(at::kDouble); };
  // Parts of something wider, as projections give them.
  const at::Tensor wide = narrow(NormalTensor(random, {2, 37, 11}));
  return {wide.narrow(2, 0, 5),
          narrow(UniformTensor(random, {2, 37, 5}, 0.001, 0.4)),
          wide.narrow(2, 5, 3),
          wide.narrow(2, 8, 3),
          narrow(UniformTensor(random, {5, 3}, -4, 0)),
          narrow(NormalTensor(random, {5}))};
}

// The recurrence, a step and a state after the other.
at::Tensor Recurrence(const SelectiveScanInput& in, at::Tensor state) {
  const at::Tensor y = at::empty({2, 37, 5}, at::kDouble);
  const auto x = in.x.accessor<double, 3>(), dt = in.dt.accessor<double, 3>();
  const auto b = in.b.accessor<double, 3>(), c = in.c.accessor<double, 3>();
  const auto a = in.a.accessor<double, 2>();
  const auto d = in.d.accessor<double, 1>();
  auto h = state.accessor<double, 3>(), out = y.accessor<double, 3>();
  for (int row = 0; row < 2; ++row) {
    for (int t = 0; t < 37; ++t) {
      for (int i = 0; i < 5; ++i) {
        out[row][t][i] = d[i] * x[row][t][i];
        for (int n = 0; n < 3; ++n) {
          h[row][i][n] =
              std::exp(dt[row][t][i] * a[i][n]) * h[row][i][n] + dt[row][t][i] * x[row][t][i] * b[row][t][n];
          out[row][t][i] += c[row][t][n] * h[row][i][n];
        }
      }
    }
  }
  return y;
}

TEST(SelectiveScanTest, EqualsItsDefinitionWholeAndInChunks) {
  const SelectiveScanInput input = Drawn();
  Random random({8});
  const at::Tensor initial = NormalTensor(random, {2, 5, 3}), expected_state = initial.clone();
  const at::Tensor expected = Recurrence(input, expected_state);
  at::Tensor state = initial;
  EXPECT_LE(MaxDifference(SelectiveScan(input, state), expected), 1e-13);
  EXPECT_LE(MaxDifference(state, expected_state), 1e-13);

  state = initial;
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const int64_t steps : {1, 20, 16}) {
    SelectiveScanInput part = input;
    for (at::Tensor* t : {&part.x, &part.dt, &part.b, &part.c}) *t = t->narrow(1, begin, steps);
    parts.push_back(SelectiveScan(part, state));
    begin += steps;
  }
  EXPECT_LE(MaxDifference(at::cat(parts, 1), expected), 1e-13);
  EXPECT_LE(MaxDifference(state, expected_state), 1e-13);
}

// The twin of the CUDA kernel.
TEST(SelectiveScanTest, TheKernelsTwinIsTheSame) {
  const SelectiveScanInput input = Drawn();
  Random random({9});
  for (const bool carried : {false, true}) {
    at::Tensor state =
        carried ? NormalTensor(random, {2, 5, 3}).to(at::kFloat).to(at::kDouble) : at::Tensor();
    std::vector<at::Tensor> kept;  // what the problem points to
    const auto floats = [&](const at::Tensor& t) {
      kept.push_back(t.to(at::kFloat));
      return kept.back();
    };
    SelectiveScanProblem problem{2, 37, 5, 3};
    const auto read = [&](const at::Tensor& t, const float*& data, int64_t& row_stride,
                          int64_t& step_stride) {
      const at::Tensor narrow = floats(t);
      data = narrow.const_data_ptr<float>();
      row_stride = narrow.stride(0);
      step_stride = narrow.stride(1);
    };
    read(input.x, problem.x, problem.x_row_stride, problem.x_step_stride);
    read(input.dt, problem.dt, problem.dt_row_stride, problem.dt_step_stride);
    read(input.b, problem.b, problem.b_row_stride, problem.b_step_stride);
    read(input.c, problem.c, problem.c_row_stride, problem.c_step_stride);
    problem.a = floats(input.a).const_data_ptr<float>();
    problem.d = floats(input.d).const_data_ptr<float>();
    if (carried) problem.initial = floats(state).const_data_ptr<float>();
    const at::Tensor y = at::empty({2, 37, 5}, at::kFloat), last = at::empty({2, 5, 3}, at::kFloat);
    problem.y = y.mutable_data_ptr<float>();
    problem.final_state = last.mutable_data_ptr<float>();
    SelectiveScanPlainly(problem);
    EXPECT_LE(MaxDifference(y, SelectiveScan(input, state)), 1e-5) << carried;
    EXPECT_LE(MaxDifference(last, state), 1e-5) << carried;
  }
}

TEST(SelectiveScanTest, StretchesFillADeviceAndAreNoShorterThanUseful) {
  EXPECT_EQ((SelectiveScanProblem{1, 8192, 1536, 16}.Stretches()), 64);
  EXPECT_EQ((SelectiveScanProblem{1, 100, 128, 16}.Stretches()), 1);
  EXPECT_EQ((SelectiveScanProblem{64, 8192, 1536, 16}.Stretches()), 1);
  EXPECT_EQ((SelectiveScanProblem{1, 100, 128, 16}.Room()), 0);
  EXPECT_EQ((SelectiveScanProblem{2, 8192, 1536, 16}.Room()), 2 * 32 * 1536 * 17);
}

}  // namespace
}  // namespace eigsvc
