#include "models/layers/delta_rule.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/zeros.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::NormalTensor;
using testing::RelativeDifference;
using testing::UniformTensor;

// The recurrence itself, one step after the other in double precision.
LinearAttentionOutput Recurrence(const DeltaRuleInput& input) {
  const int64_t batch = input.q.size(0), steps = input.q.size(1), heads = input.q.size(2),
                order = input.q.size(3), width = input.v.size(3);
  at::Tensor o = at::zeros({batch, steps, heads, width}, c10::kDouble);
  at::Tensor state = input.initial_state.defined() ? input.initial_state.clone()
                                                   : at::zeros({batch, heads, order, width}, c10::kDouble);
  const at::Tensor decays = input.log_decay.expand(input.q.sizes());
  const auto q = input.q.accessor<double, 4>(), k = input.k.accessor<double, 4>(),
             u = input.u.accessor<double, 4>(), w = input.w.accessor<double, 4>(),
             v = input.v.accessor<double, 4>(), g = decays.accessor<double, 4>();
  auto s = state.accessor<double, 4>(), out = o.accessor<double, 4>();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 0; t < steps; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t j = 0; j < width; ++j) {
          double erased = 0;
          for (int64_t i = 0; i < order; ++i) erased += w[b][t][h][i] * s[b][h][i][j];
          for (int64_t i = 0; i < order; ++i) {
            s[b][h][i][j] = std::exp(g[b][t][h][i]) * s[b][h][i][j] - u[b][t][h][i] * erased +
                            k[b][t][h][i] * v[b][t][h][j];
            out[b][t][h][j] += q[b][t][h][i] * s[b][h][i][j];
          }
        }
      }
    }
  }
  return {o, state};
}

struct Shape {
  int64_t batch, steps, heads, order, width, block;
  bool initial, one_decay;
};
void PrintTo(const Shape& s, std::ostream* out) {
  *out << "B" << s.batch << "_T" << s.steps << "_H" << s.heads << "_K" << s.order << "_V" << s.width << "_Q"
       << s.block << (s.initial ? "_initial" : "") << (s.one_decay ? "_one_decay" : "");
}

// Kimi Delta Attention's: (I - β k kᵀ) diag(λ) with ‖k‖ = 1 and β in (0,2), so that states stay bounded.
DeltaRuleInput Draw(const Shape& s) {
  Random random({7, static_cast<uint64_t>(s.steps)});
  const std::vector<int64_t> shape = {s.batch, s.steps, s.heads, s.order};
  DeltaRuleInput input;
  input.q = NormalTensor(random, shape);
  const at::Tensor direction = NormalTensor(random, shape);
  const at::Tensor key = direction / direction.square().sum(-1, true).sqrt();
  const at::Tensor beta = UniformTensor(random, {s.batch, s.steps, s.heads, 1}, 0, 2);
  input.log_decay =
      -3 * UniformTensor(random, {s.batch, s.steps, s.heads, s.one_decay ? 1 : s.order}, 0, 1).pow(4);
  input.u = beta * key;
  input.w = input.log_decay.exp() * key;
  input.k = beta * key;
  input.v = NormalTensor(random, {s.batch, s.steps, s.heads, s.width});
  if (s.initial) input.initial_state = NormalTensor(random, {s.batch, s.heads, s.order, s.width});
  return input;
}

using Member = at::Tensor DeltaRuleInput::*;
constexpr Member kOverTime[] = {&DeltaRuleInput::q, &DeltaRuleInput::k, &DeltaRuleInput::u,
                                &DeltaRuleInput::w, &DeltaRuleInput::v, &DeltaRuleInput::log_decay};

DeltaRuleInput ToFloat(DeltaRuleInput input) {
  for (const Member member : kOverTime) input.*member = (input.*member).to(c10::kFloat);
  if (input.initial_state.defined()) input.initial_state = input.initial_state.to(c10::kFloat);
  return input;
}

class DeltaRuleTest : public ::testing::TestWithParam<Shape> {};

TEST_P(DeltaRuleTest, EqualsTheRecurrence) {
  const DeltaRuleInput input = Draw(GetParam());
  const LinearAttentionOutput expected = Recurrence(input);
  const LinearAttentionOutput exact = DeltaRule(input, GetParam().block);
  EXPECT_LE(RelativeDifference(exact.o, expected.o), 1e-13);
  EXPECT_LE(RelativeDifference(exact.final_state, expected.final_state), 1e-13);
  const LinearAttentionOutput single = DeltaRule(ToFloat(input), GetParam().block);
  EXPECT_LE(RelativeDifference(single.o, expected.o), 1e-5);
  EXPECT_LE(RelativeDifference(single.final_state, expected.final_state), 1e-5);
}

TEST_P(DeltaRuleTest, ChunksOfTimeEqualTheWhole) {
  const DeltaRuleInput input = Draw(GetParam());
  const LinearAttentionOutput whole = DeltaRule(input, GetParam().block);
  DeltaRuleInput rest = input;
  std::vector<at::Tensor> parts;
  for (int64_t begin = 0; begin < GetParam().steps; begin += 5) {
    const int64_t length = std::min<int64_t>(5, GetParam().steps - begin);
    for (const Member member : kOverTime) rest.*member = (input.*member).narrow(1, begin, length);
    const LinearAttentionOutput part = DeltaRule(rest, GetParam().block);
    parts.push_back(part.o);
    rest.initial_state = part.final_state;
  }
  EXPECT_LE(RelativeDifference(at::cat(parts, 1), whole.o), 1e-13);
  EXPECT_LE(RelativeDifference(rest.initial_state, whole.final_state), 1e-13);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, DeltaRuleTest,
    ::testing::Values(Shape{1, 1, 1, 1, 1, 32, false, false}, Shape{2, 7, 2, 3, 4, 32, false, true},
                      Shape{2, 17, 3, 4, 2, 4, true, false}, Shape{1, 65, 2, 5, 3, 16, true, true},
                      Shape{1, 33, 2, 1, 3, 8, true, false}, Shape{1, 130, 1, 8, 8, 32, false, false}));

TEST(DeltaRulePrecisionTest, BlocksLoseNoMoreThanStepsDo) {
  for (const int64_t order : {1, 2, 3, 4, 6, 8, 12, 16, 32, 64}) {
    const Shape shape{4, 256, 4, order, 8, 0, false, true};
    DeltaRuleInput input = Draw(shape);
    input.log_decay.zero_();  // nothing is forgotten, so nothing hides an error
    input.w = input.u / input.u.square().sum(-1, true).sqrt();
    // What float32 is given, exactly.
    for (const Member member : kOverTime) input.*member = (input.*member).to(c10::kFloat).to(c10::kDouble);
    const at::Tensor exact = DeltaRule(input).o;
    const double steps = RelativeDifference(DeltaRule(ToFloat(input), 1).o, exact),
                 blocks = RelativeDifference(DeltaRule(ToFloat(input)).o, exact);
    EXPECT_LE(blocks, 2 * steps + 0x1p-23) << order;
  }
}

TEST(DeltaRulePrecisionTest, TotalForgettingAndPerfectMemoryStayExact) {
  DeltaRuleInput input = Draw({1, 50, 2, 4, 3, 16, true, false});
  input.log_decay.select(3, 0).fill_(-std::numeric_limits<double>::infinity());
  input.log_decay.select(3, 1).fill_(0);
  input.log_decay.select(3, 2).slice(1, 0, 50, 7).fill_(-900);
  input.w = input.log_decay.exp() * input.u / input.u.square().sum(-1, true).sqrt();
  const LinearAttentionOutput expected = Recurrence(input);
  EXPECT_LE(RelativeDifference(DeltaRule(input, 16).o, expected.o), 1e-13);
  EXPECT_LE(RelativeDifference(DeltaRule(ToFloat(input), 16).o, expected.o), 1e-5);
}

TEST(DeltaRuleGradientTest, EqualsFiniteDifferences) {
  for (const bool one_decay : {false, true}) {
    const DeltaRuleInput input = Draw({2, 7, 2, 3, 4, 4, true, one_decay});
    Random random({12});
    const at::Tensor direction_o = NormalTensor(random, input.v.sizes());
    const at::Tensor direction_state = NormalTensor(random, input.initial_state.sizes());
    const auto loss = [&](const DeltaRuleInput& at_point) {
      const LinearAttentionOutput output = DeltaRule(at_point, 4);
      return (output.o * direction_o).sum() + (output.final_state * direction_state).sum();
    };
    std::vector<Member> members(std::begin(kOverTime), std::end(kOverTime));
    members.push_back(&DeltaRuleInput::initial_state);
    for (const Member member : members) {
      DeltaRuleInput leaf = input, plus = input, minus = input;
      leaf.*member = (input.*member).clone().set_requires_grad(true);
      loss(leaf).backward();
      const at::Tensor step = NormalTensor(random, (input.*member).sizes());
      plus.*member = input.*member + 1e-6 * step;
      minus.*member = input.*member - 1e-6 * step;
      const double numeric = (loss(plus) - loss(minus)).item<double>() / 2e-6;
      EXPECT_NEAR(((leaf.*member).grad() * step).sum().item<double>(), numeric,
                  1e-7 * (1 + std::abs(numeric)));
    }
  }
}

}  // namespace
}  // namespace eigsvc
