#include "models/layers/ssd.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <ostream>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/zeros.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "models/layers/ssd_by_blocks.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::MaxDifference;
using testing::NormalTensor;
using testing::RelativeDifference;
using testing::UniformTensor;

// The recurrence itself, one step after the other in double precision.
SsdOutput Recurrence(const SsdInput& input) {
  const int64_t batch = input.x.size(0), steps = input.x.size(1), heads = input.x.size(2),
                width = input.x.size(3);
  const int64_t groups = input.b.size(2), order = input.b.size(3);
  at::Tensor y = at::zeros({batch, steps, heads, width}, c10::kDouble);
  at::Tensor state = input.initial_state.defined() ? input.initial_state.clone()
                                                   : at::zeros({batch, heads, width, order}, c10::kDouble);
  const auto x = input.x.accessor<double, 4>(), b = input.b.accessor<double, 4>(),
             c = input.c.accessor<double, 4>();
  const auto dt = input.dt.accessor<double, 3>(), log_decay = input.log_decay.accessor<double, 3>();
  auto h = state.accessor<double, 4>(), out = y.accessor<double, 4>();
  for (int64_t i = 0; i < batch; ++i) {
    for (int64_t t = 0; t < steps; ++t) {
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t group = head / (heads / groups);
        for (int64_t p = 0; p < width; ++p) {
          for (int64_t n = 0; n < order; ++n) {
            h[i][head][p][n] = std::exp(log_decay[i][t][head]) * h[i][head][p][n] +
                               dt[i][t][head] * x[i][t][head][p] * b[i][t][group][n];
            out[i][t][head][p] += h[i][head][p][n] * c[i][t][group][n];
          }
        }
      }
    }
  }
  return {y, state};
}

SsdInput Draw(uint64_t seed, int64_t batch, int64_t steps, int64_t heads, int64_t groups, int64_t width,
              int64_t order, bool initial) {
  Random random({seed});
  SsdInput input;
  input.x = NormalTensor(random, {batch, steps, heads, width});
  input.dt = UniformTensor(random, {batch, steps, heads}, 0, 0.3);
  input.log_decay = -input.dt * UniformTensor(random, {heads}, 0.1, 16);
  input.b = NormalTensor(random, {batch, steps, groups, order});
  input.c = NormalTensor(random, {batch, steps, groups, order});
  if (initial) input.initial_state = NormalTensor(random, {batch, heads, width, order});
  return input;
}

SsdInput Map(const SsdInput& input, const std::function<at::Tensor(const at::Tensor&)>& f) {
  return {f(input.x), f(input.dt), f(input.log_decay), f(input.b), f(input.c), input.initial_state};
}

SsdInput ToFloat(const SsdInput& input) {
  SsdInput result = Map(input, [](const at::Tensor& t) { return t.to(c10::kFloat); });
  if (input.initial_state.defined()) result.initial_state = input.initial_state.to(c10::kFloat);
  return result;
}

struct Shape {
  int64_t batch, steps, heads, groups, width, order, block;
  bool initial;
};
void PrintTo(const Shape& s, std::ostream* out) {
  *out << "B" << s.batch << " T" << s.steps << " H" << s.heads << " G" << s.groups << " P" << s.width << " N"
       << s.order << " block " << s.block << (s.initial ? " with a state" : "");
}

class SsdTest : public ::testing::TestWithParam<Shape> {};

TEST_P(SsdTest, EqualsTheRecurrence) {
  const Shape s = GetParam();
  const SsdInput input = Draw(7, s.batch, s.steps, s.heads, s.groups, s.width, s.order, s.initial);
  const SsdOutput exact = Recurrence(input);
  for (const int64_t blocks_at_once : {1, 2, 3, 64}) {
    const SsdOutput found = Ssd(input, s.block, blocks_at_once),
                    single = Ssd(ToFloat(input), s.block, blocks_at_once);
    EXPECT_EQ(found.y.sizes(), exact.y.sizes());
    EXPECT_LE(RelativeDifference(found.y, exact.y), 1e-13);
    EXPECT_LE(RelativeDifference(found.final_state, exact.final_state), 1e-13);
    EXPECT_LE(RelativeDifference(single.y, exact.y), 2e-6);
    EXPECT_LE(RelativeDifference(single.final_state, exact.final_state), 2e-6);
  }
}

TEST_P(SsdTest, ChunksThatCarryTheStateEqualTheWhole) {
  const Shape s = GetParam();
  const SsdInput input = Draw(8, s.batch, s.steps, s.heads, s.groups, s.width, s.order, s.initial);
  const SsdOutput whole = Ssd(input, s.block);
  std::vector<at::Tensor> parts;
  at::Tensor state = input.initial_state;
  for (int64_t begin = 0, steps; begin < s.steps; begin += steps) {
    steps = std::min<int64_t>(begin % 2 == 0 ? 3 : 6, s.steps - begin);
    SsdInput chunk = Map(input, [&](const at::Tensor& t) { return t.narrow(1, begin, steps); });
    chunk.initial_state = state;
    SsdOutput part = Ssd(chunk, s.block);
    parts.push_back(part.y);
    state = part.final_state;
  }
  EXPECT_LE(RelativeDifference(at::cat(parts, 1), whole.y), 1e-13);
  EXPECT_LE(RelativeDifference(state, whole.final_state), 1e-13);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, SsdTest,
    ::testing::Values(Shape{1, 1, 1, 1, 1, 1, 64, false}, Shape{2, 7, 2, 1, 3, 4, 64, false},
                      Shape{2, 17, 4, 2, 3, 5, 4, true}, Shape{1, 65, 3, 3, 2, 4, 16, true},
                      Shape{3, 33, 6, 2, 5, 3, 33, false}, Shape{1, 16, 2, 1, 4, 2, 1, true}));

// A running sum of log λ over a block reaches thousands here; a difference of two in float32 would be off by
// 1e-4.
TEST(SsdPrecisionTest, SmallDecaysBesideLargeOnesKeepTheirDigits) {
  SsdInput input = Draw(9, 1, 64, 2, 1, 4, 8, false);
  for (int64_t t = 0; t < 64; t += 9) input.log_decay.select(1, t).fill_(-900.0);
  EXPECT_LE(RelativeDifference(Ssd(ToFloat(input)).y, Recurrence(input).y), 2e-6);
}

TEST(SsdPrecisionTest, TotalForgettingAndPerfectMemoryStayFinite) {
  SsdInput input = Draw(10, 1, 40, 2, 1, 4, 8, false);
  input.log_decay.select(2, 0).fill_(-3e4);  // λ underflows: only the present remains
  input.log_decay.select(2, 1).fill_(0);     // λ = 1: a plain sum
  const SsdOutput exact = Recurrence(input);
  EXPECT_LE(RelativeDifference(Ssd(input, 8).y, exact.y), 1e-13);
  EXPECT_LE(RelativeDifference(Ssd(ToFloat(input), 8).y, exact.y), 2e-6);
}

class SsdGradientTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(SsdGradientTest, EqualsFiniteDifferences) {
  const SsdInput input = Draw(11, 2, 7, 4, 2, 2, 3, true);
  Random random({12});
  const at::Tensor direction_y = NormalTensor(random, input.x.sizes());
  const at::Tensor direction_state = NormalTensor(random, input.initial_state.sizes());
  const auto loss = [&](const SsdInput& at_point) {
    const SsdOutput output = Ssd(at_point, 3, /*blocks_at_once=*/GetParam());
    return (output.y * direction_y).sum() + (output.final_state * direction_state).sum();
  };
  const std::vector<at::Tensor SsdInput::*> members = {&SsdInput::x, &SsdInput::dt, &SsdInput::log_decay,
                                                       &SsdInput::b, &SsdInput::c,  &SsdInput::initial_state};
  SsdInput leaves = Map(input, [](const at::Tensor& t) { return t.clone().set_requires_grad(true); });
  leaves.initial_state = input.initial_state.clone().set_requires_grad(true);
  loss(leaves).backward();
  for (size_t m = 0; m < members.size(); ++m) {
    const at::Tensor step = NormalTensor(random, (input.*members[m]).sizes());
    const double epsilon = 1e-6;
    SsdInput plus = input, minus = input;
    plus.*members[m] = input.*members[m] + epsilon * step;
    minus.*members[m] = input.*members[m] - epsilon * step;
    const double numeric = (loss(plus) - loss(minus)).item<double>() / (2 * epsilon);
    const double analytic = ((leaves.*members[m]).grad() * step).sum().item<double>();
    EXPECT_NEAR(analytic, numeric, 1e-7 * (1 + std::abs(numeric))) << "input " << m;
  }
}

INSTANTIATE_TEST_SUITE_P(BlocksAtOnce, SsdGradientTest, ::testing::Values(1, 2));

// The assembly that CUDA devices run, by the plain twins of its kernels.
TEST(SsdTest, ByBlocksItIsTheSame) {
  for (const Shape& shape : {Shape{1, 1, 1, 1, 1, 1, 0, false}, Shape{2, 5, 4, 2, 3, 7, 0, true},
                             Shape{1, 128, 2, 1, 4, 8, 0, false}, Shape{2, 300, 6, 3, 5, 4, 0, true}}) {
    SsdInput wide = Draw(31, shape.batch, shape.steps, shape.heads, shape.groups, shape.width, shape.order,
                         shape.initial);
    Random random({32});
    for (const bool per_channel : {false, true}) {
      // x as a slice of something wider, as projections come.
      SsdInput narrow = ToFloat(wide);
      narrow.x = at::cat({narrow.x.flatten(2), narrow.b.flatten(2)}, -1)
                     .narrow(2, 0, shape.heads * shape.width)
                     .unflatten(2, {shape.heads, shape.width});
      const at::Tensor skip = per_channel ? NormalTensor(random, {shape.heads, shape.width})
                                          : NormalTensor(random, {shape.heads});
      narrow.skip = skip.to(c10::kFloat);
      SsdOutput expected = Recurrence(wide);
      expected.y = expected.y + wide.x * skip.view({shape.heads, -1});
      const SsdOutput found = SsdByBlocks(narrow);
      EXPECT_LT(RelativeDifference(found.y, expected.y), 2e-6) << shape.steps;
      EXPECT_LT(RelativeDifference(found.final_state, expected.final_state), 2e-6) << shape.steps;
      EXPECT_LT(RelativeDifference(Ssd(narrow).y, expected.y), 2e-6) << shape.steps;
    }
    SsdInput plain = ToFloat(wide);
    plain.x = plain.x * plain.dt.unsqueeze(-1);
    plain.dt.reset();
    EXPECT_LT(RelativeDifference(SsdByBlocks(plain).y, Recurrence(wide).y), 2e-6) << shape.steps;
  }
}

}  // namespace
}  // namespace eigsvc
