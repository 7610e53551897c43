#include "models/layers/diagonal_scan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/empty.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::MaxDifference;
using testing::NormalTensor;
using testing::RelativeDifference;
using testing::UniformTensor;

struct Drawn {
  at::Tensor log_decay, input, initial;  // [B,T,E], [B,E]
};

Drawn Draw(uint64_t seed, int64_t batch, int64_t steps, int64_t elements, bool initial) {
  Random random({seed});
  Drawn drawn;
  drawn.log_decay = UniformTensor(random, {batch, steps, elements}, -2, 0);
  drawn.input = NormalTensor(random, {batch, steps, elements});
  if (initial) drawn.initial = NormalTensor(random, {batch, elements});
  return drawn;
}

at::Tensor Recurrence(const Drawn& drawn) {
  const int64_t batch = drawn.input.size(0), steps = drawn.input.size(1), elements = drawn.input.size(2);
  at::Tensor states = at::empty({batch, steps, elements}, c10::kDouble);
  const auto decay = drawn.log_decay.accessor<double, 3>(), input = drawn.input.accessor<double, 3>();
  auto out = states.accessor<double, 3>();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t e = 0; e < elements; ++e) {
      double h = drawn.initial.defined() ? drawn.initial[b][e].item<double>() : 0;
      for (int64_t t = 0; t < steps; ++t) out[b][t][e] = h = std::exp(decay[b][t][e]) * h + input[b][t][e];
    }
  }
  return states;
}

struct Shape {
  int64_t batch, steps, elements;
  bool initial;
};
void PrintTo(const Shape& s, std::ostream* out) {
  *out << "B" << s.batch << " T" << s.steps << " E" << s.elements << (s.initial ? " with a state" : "");
}

class DiagonalScanTest : public ::testing::TestWithParam<Shape> {};

TEST_P(DiagonalScanTest, EqualsTheRecurrence) {
  const Shape s = GetParam();
  const Drawn drawn = Draw(1, s.batch, s.steps, s.elements, s.initial);
  const at::Tensor exact = Recurrence(drawn);
  const at::Tensor found = DiagonalScan(drawn.log_decay, drawn.input, drawn.initial);
  EXPECT_EQ(found.sizes(), exact.sizes());
  EXPECT_LE(RelativeDifference(found, exact), 1e-14);
  const at::Tensor single =
      DiagonalScan(drawn.log_decay.to(c10::kFloat), drawn.input.to(c10::kFloat),
                   drawn.initial.defined() ? drawn.initial.to(c10::kFloat) : drawn.initial);
  EXPECT_EQ(single.scalar_type(), c10::kFloat);
  EXPECT_LE(RelativeDifference(single, exact), 1e-6);
}

TEST_P(DiagonalScanTest, ChunksThatCarryTheStateEqualTheWhole) {
  const Shape s = GetParam();
  const Drawn drawn = Draw(2, s.batch, s.steps, s.elements, s.initial);
  const at::Tensor whole = DiagonalScan(drawn.log_decay, drawn.input, drawn.initial);
  std::vector<at::Tensor> parts;
  at::Tensor state = drawn.initial;
  for (int64_t begin = 0, steps; begin < s.steps; begin += steps) {
    steps = std::min<int64_t>(begin % 2 == 0 ? 3 : 26, s.steps - begin);
    parts.push_back(
        DiagonalScan(drawn.log_decay.narrow(1, begin, steps), drawn.input.narrow(1, begin, steps), state));
    state = parts.back().select(1, steps - 1);
  }
  EXPECT_LE(RelativeDifference(at::cat(parts, 1), whole), 1e-14);
}

TEST_P(DiagonalScanTest, GradientsEqualFiniteDifferences) {
  const Shape s = GetParam();
  const Drawn drawn = Draw(3, s.batch, s.steps, s.elements, true);
  Random random({4});
  const at::Tensor direction = NormalTensor(random, drawn.input.sizes());
  const auto loss = [&](const Drawn& at_point) {
    return (DiagonalScan(at_point.log_decay, at_point.input, at_point.initial) * direction).sum();
  };
  Drawn leaves;
  for (at::Tensor Drawn::*member : {&Drawn::log_decay, &Drawn::input, &Drawn::initial})
    leaves.*member = (drawn.*member).clone().set_requires_grad(true);
  loss(leaves).backward();
  for (at::Tensor Drawn::*member : {&Drawn::log_decay, &Drawn::input, &Drawn::initial}) {
    const at::Tensor step = NormalTensor(random, (drawn.*member).sizes());
    constexpr double kEpsilon = 1e-6;
    Drawn plus = drawn, minus = drawn;
    plus.*member = drawn.*member + kEpsilon * step;
    minus.*member = drawn.*member - kEpsilon * step;
    const double numeric = (loss(plus) - loss(minus)).item<double>() / (2 * kEpsilon);
    const double analytic = ((leaves.*member).grad() * step).sum().item<double>();
    EXPECT_NEAR(analytic, numeric, 1e-6 * (1 + std::abs(numeric)));
  }
}

// Few elements a step are walked in many blocks at once, many in one.
INSTANTIATE_TEST_SUITE_P(Shapes, DiagonalScanTest,
                         ::testing::Values(Shape{1, 1, 1, false}, Shape{1, 1, 3, true}, Shape{2, 7, 3, false},
                                           Shape{3, 64, 5, true}, Shape{1, 101, 2, true},
                                           Shape{2, 97, 40, false}, Shape{2, 33, 5000, true}));

TEST(DiagonalScanExtremesTest, TotalForgettingAndPerfectMemoryStayFinite) {
  Drawn drawn = Draw(5, 2, 50, 4, true);
  drawn.log_decay.select(2, 0).fill_(-3e4);
  drawn.log_decay.select(2, 1).fill_(0);
  drawn.log_decay.select(2, 2).slice(0, 0, 1).fill_(-std::numeric_limits<double>::infinity());
  EXPECT_LE(RelativeDifference(DiagonalScan(drawn.log_decay, drawn.input, drawn.initial), Recurrence(drawn)),
            1e-14);
}

TEST(DiagonalScanInputTest, LeavesItsInputsAlone) {
  const Drawn drawn = Draw(6, 2, 40, 3, true),
              copy = {drawn.log_decay.clone(), drawn.input.clone(), drawn.initial.clone()};
  const at::NoGradGuard no_grad;
  DiagonalScan(drawn.log_decay, drawn.input, drawn.initial);
  EXPECT_EQ(MaxDifference(drawn.log_decay, copy.log_decay), 0);
  EXPECT_EQ(MaxDifference(drawn.input, copy.input), 0);
  EXPECT_EQ(MaxDifference(drawn.initial, copy.initial), 0);
}

}  // namespace
}  // namespace eigsvc
