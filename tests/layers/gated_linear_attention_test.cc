#include "models/layers/gated_linear_attention.h"

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
LinearAttentionOutput Recurrence(const GatedLinearAttentionInput& input) {
  const int64_t batch = input.q.size(0), steps = input.q.size(1), heads = input.q.size(2),
                order = input.q.size(3), width = input.v.size(3);
  at::Tensor o = at::zeros({batch, steps, heads, width}, c10::kDouble);
  at::Tensor state = input.initial_state.defined() ? input.initial_state.clone()
                                                   : at::zeros({batch, heads, order, width}, c10::kDouble);
  const auto q = input.q.accessor<double, 4>(), k = input.k.accessor<double, 4>(),
             v = input.v.accessor<double, 4>(), g = input.log_decay.accessor<double, 4>();
  auto s = state.accessor<double, 4>(), out = o.accessor<double, 4>();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 0; t < steps; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < order; ++i) {
          for (int64_t j = 0; j < width; ++j) {
            const double added = k[b][t][h][i] * v[b][t][h][j];
            const double before = s[b][h][i][j];
            s[b][h][i][j] = std::exp(g[b][t][h][i]) * before + added;
            const double read =
                input.bonus.defined() ? before + input.bonus[h][i].item<double>() * added : s[b][h][i][j];
            out[b][t][h][j] += q[b][t][h][i] * read;
          }
        }
      }
    }
  }
  return {o, state};
}

struct Shape {
  int64_t batch, steps, heads, order, width, block;
  bool initial, bonus;
};
void PrintTo(const Shape& s, std::ostream* out) {
  *out << "B" << s.batch << "_T" << s.steps << "_H" << s.heads << "_K" << s.order << "_V" << s.width << "_Q"
       << s.block << (s.initial ? "_initial" : "") << (s.bonus ? "_bonus" : "");
}

GatedLinearAttentionInput Draw(const Shape& s, double strongest = 3) {
  Random random({7, static_cast<uint64_t>(s.steps)});
  const std::vector<int64_t> shape = {s.batch, s.steps, s.heads, s.order};
  GatedLinearAttentionInput input;
  input.q = NormalTensor(random, shape);
  input.k = NormalTensor(random, shape);
  input.v = NormalTensor(random, {s.batch, s.steps, s.heads, s.width});
  input.log_decay = -strongest * UniformTensor(random, shape, 0, 1).pow(4);
  if (s.bonus) input.bonus = NormalTensor(random, {s.heads, s.order});
  if (s.initial) input.initial_state = NormalTensor(random, {s.batch, s.heads, s.order, s.width});
  return input;
}

GatedLinearAttentionInput ToFloat(GatedLinearAttentionInput input) {
  for (at::Tensor* x : {&input.q, &input.k, &input.v, &input.log_decay, &input.bonus, &input.initial_state}) {
    if (x->defined()) *x = x->to(c10::kFloat);
  }
  return input;
}

class GatedLinearAttentionTest : public ::testing::TestWithParam<Shape> {};

TEST_P(GatedLinearAttentionTest, EqualsTheRecurrence) {
  const GatedLinearAttentionInput input = Draw(GetParam());
  const LinearAttentionOutput expected = Recurrence(input);
  const LinearAttentionOutput exact = GatedLinearAttention(input, GetParam().block);
  EXPECT_LE(RelativeDifference(exact.o, expected.o), 1e-13);
  EXPECT_LE(RelativeDifference(exact.final_state, expected.final_state), 1e-13);
  const LinearAttentionOutput single = GatedLinearAttention(ToFloat(input), GetParam().block);
  EXPECT_LE(RelativeDifference(single.o, expected.o), 3e-6);
  EXPECT_LE(RelativeDifference(single.final_state, expected.final_state), 3e-6);
}

TEST_P(GatedLinearAttentionTest, ChunksOfTimeEqualTheWhole) {
  const GatedLinearAttentionInput input = Draw(GetParam());
  const LinearAttentionOutput whole = GatedLinearAttention(input, GetParam().block);
  GatedLinearAttentionInput rest = input;
  std::vector<at::Tensor> parts;
  for (int64_t begin = 0; begin < GetParam().steps; begin += 5) {
    const int64_t length = std::min<int64_t>(5, GetParam().steps - begin);
    for (auto member : {&GatedLinearAttentionInput::q, &GatedLinearAttentionInput::k,
                        &GatedLinearAttentionInput::v, &GatedLinearAttentionInput::log_decay}) {
      rest.*member = (input.*member).narrow(1, begin, length);
    }
    const LinearAttentionOutput part = GatedLinearAttention(rest, GetParam().block);
    parts.push_back(part.o);
    rest.initial_state = part.final_state;
  }
  EXPECT_LE(RelativeDifference(at::cat(parts, 1), whole.o), 1e-13);
  EXPECT_LE(RelativeDifference(rest.initial_state, whole.final_state), 1e-13);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, GatedLinearAttentionTest,
    ::testing::Values(Shape{1, 1, 1, 1, 1, 64, false, false}, Shape{2, 7, 2, 3, 4, 64, false, true},
                      Shape{2, 17, 3, 4, 2, 4, true, false}, Shape{1, 65, 2, 5, 3, 16, true, true},
                      Shape{1, 33, 2, 1, 3, 8, true, false}, Shape{1, 130, 1, 8, 8, 64, false, false}));

TEST(GatedLinearAttentionPrecisionTest, TotalForgettingAndPerfectMemoryStayExact) {
  const Shape shape{1, 50, 2, 4, 3, 16, true, false};
  GatedLinearAttentionInput input = Draw(shape);
  input.log_decay.select(3, 0).fill_(-std::numeric_limits<double>::infinity());  // only the present remains
  input.log_decay.select(3, 1).fill_(0);                                         // a plain sum
  input.log_decay.select(3, 2).slice(1, 0, 50, 7).fill_(-900);                   // beside small ones
  const LinearAttentionOutput expected = Recurrence(input);
  EXPECT_LE(RelativeDifference(GatedLinearAttention(input, 16).o, expected.o), 1e-13);
  EXPECT_LE(RelativeDifference(GatedLinearAttention(ToFloat(input), 16).o, expected.o), 2e-6);
}

TEST(GatedLinearAttentionGradientTest, EqualsFiniteDifferences) {
  const GatedLinearAttentionInput input = Draw({2, 7, 2, 3, 4, 4, true, true});
  Random random({12});
  const at::Tensor direction_o = NormalTensor(random, input.v.sizes());
  const at::Tensor direction_state = NormalTensor(random, input.initial_state.sizes());
  const auto loss = [&](const GatedLinearAttentionInput& at_point) {
    const LinearAttentionOutput output = GatedLinearAttention(at_point, 4);
    return (output.o * direction_o).sum() + (output.final_state * direction_state).sum();
  };
  for (auto member : {&GatedLinearAttentionInput::q, &GatedLinearAttentionInput::k,
                      &GatedLinearAttentionInput::v, &GatedLinearAttentionInput::log_decay,
                      &GatedLinearAttentionInput::bonus, &GatedLinearAttentionInput::initial_state}) {
    GatedLinearAttentionInput leaf = input, plus = input, minus = input;
    leaf.*member = (input.*member).clone().set_requires_grad(true);
    loss(leaf).backward();
    const at::Tensor step = NormalTensor(random, (input.*member).sizes());
    plus.*member = input.*member + 1e-6 * step;
    minus.*member = input.*member - 1e-6 * step;
    const double numeric = (loss(plus) - loss(minus)).item<double>() / 2e-6;
    EXPECT_NEAR(((leaf.*member).grad() * step).sum().item<double>(), numeric, 1e-7 * (1 + std::abs(numeric)));
  }
}

}  // namespace
}  // namespace eigsvc
