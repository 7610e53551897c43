// The memories of xLSTM against the equations of arXiv 2405.04517 in true units, and against finite
// differences.
#include <cmath>
#include <limits>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/log_sigmoid.h"
#include "ATen/ops/ones_like.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/tanh.h"
#include "ATen/ops/zeros.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "models/layers/mlstm.h"
#include "models/layers/slstm.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::NormalTensor;
using testing::RelativeDifference;

MlstmInput DrawMlstm(int64_t steps, double gates) {
  Random random({5, static_cast<uint64_t>(steps)});
  MlstmInput input;
  input.q = NormalTensor(random, {2, steps, 3, 4});
  input.k = NormalTensor(random, {2, steps, 3, 4});
  input.v = NormalTensor(random, {2, steps, 3, 5});
  input.log_input = NormalTensor(random, {2, steps, 3}, gates);
  input.log_forget = at::log_sigmoid(NormalTensor(random, {2, steps, 3}, gates, 1));
  return input;
}

// In true units, step by step, with m for what eps is measured in.
MlstmOutput Recurrence(const MlstmInput& input) {
  const int64_t batch = input.v.size(0), steps = input.v.size(1), heads = input.v.size(2),
                width = input.v.size(3), order = input.k.size(3);
  MlstmOutput output{
      at::zeros(input.v.sizes(), c10::kDouble), at::zeros(input.log_input.sizes(), c10::kDouble), {}, {}};
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      at::Tensor c = at::zeros({width, order}, c10::kDouble), n = at::zeros({order}, c10::kDouble);
      double m = input.first_unit;
      for (int64_t t = 0; t < steps; ++t) {
        const double log_f = input.log_forget[b][t][h].item<double>(),
                     log_i = input.log_input[b][t][h].item<double>();
        const at::Tensor q = input.q[b][t][h], k = input.k[b][t][h], v = input.v[b][t][h];
        c = std::exp(log_f) * c + std::exp(log_i) * v.unsqueeze(1) * k.unsqueeze(0);
        n = std::exp(log_f) * n + std::exp(log_i) * k;
        m = std::max(log_f + m, log_i);
        const double normalizer =
            std::max(std::abs((n * q).sum().item<double>()), 1.0) + input.eps * std::exp(m);
        output.h[b][t][h].copy_((c * q).sum(-1) / normalizer);
        output.log_normalizer[b][t][h].fill_(std::log(normalizer));
      }
    }
  }
  return output;
}

TEST(MlstmTest, EqualsTheRecurrence) {
  for (const double first_unit : {0.0, -std::numeric_limits<double>::infinity()}) {
    for (const int64_t steps : {1, 2, 9, 130}) {
      MlstmInput input = DrawMlstm(steps, 2);
      input.first_unit = first_unit;
      input.eps = 1e-3;  // so that its units show
      const MlstmOutput expected = Recurrence(input), exact = Mlstm(input);
      EXPECT_LE(RelativeDifference(exact.h, expected.h), 1e-12);
      EXPECT_LE(testing::MaxDifference(exact.log_normalizer, expected.log_normalizer), 1e-12);
      MlstmInput single = input;
      for (auto member : {&MlstmInput::q, &MlstmInput::k, &MlstmInput::v}) {
        single.*member = (input.*member).to(c10::kFloat);
      }
      EXPECT_LE(RelativeDifference(Mlstm(single).h, expected.h), 1e-4);
    }
  }
}

TEST(MlstmTest, ChunksOfTimeEqualTheWhole) {
  const MlstmInput input = DrawMlstm(20, 4);
  const MlstmOutput whole = Mlstm(input);
  MlstmInput rest = input;
  std::vector<at::Tensor> parts;
  for (const auto& [begin, length] : {std::pair(0, 1), std::pair(1, 12), std::pair(13, 7)}) {
    for (auto member :
         {&MlstmInput::q, &MlstmInput::k, &MlstmInput::v, &MlstmInput::log_input, &MlstmInput::log_forget}) {
      rest.*member = (input.*member).narrow(1, begin, length);
    }
    const MlstmOutput part = Mlstm(rest);
    parts.push_back(part.h);
    rest.memory = part.memory;
    rest.unit = part.unit;
    rest.bound = part.bound;
  }
  EXPECT_LE(RelativeDifference(at::cat(parts, 1), whole.h), 1e-12);
}

TEST(MlstmTest, GatesOfAnySizeStayFinite) {
  for (const double gate : {-300.0, 300.0}) {
    MlstmInput input = DrawMlstm(30, 1);
    input.log_input = input.log_input + gate;
    for (auto member : {&MlstmInput::q, &MlstmInput::k, &MlstmInput::v}) {
      input.*member = (input.*member).to(c10::kFloat);
    }
    const MlstmOutput output = Mlstm(input);
    EXPECT_TRUE(std::isfinite(output.h.abs().max().item<double>()));
    EXPECT_TRUE(std::isfinite(output.log_normalizer.abs().max().item<double>()));
  }
}

TEST(MlstmTest, GradientsEqualFiniteDifferences) {
  const MlstmInput input = DrawMlstm(7, 1);
  Random random({6});
  const at::Tensor direction = NormalTensor(random, input.v.sizes());
  for (auto member :
       {&MlstmInput::q, &MlstmInput::k, &MlstmInput::v, &MlstmInput::log_input, &MlstmInput::log_forget}) {
    MlstmInput leaf = input, plus = input, minus = input;
    leaf.*member = (input.*member).clone().set_requires_grad(true);
    (Mlstm(leaf).h * direction).sum().backward();
    const at::Tensor step = NormalTensor(random, (input.*member).sizes());
    plus.*member = input.*member + 1e-6 * step;
    minus.*member = input.*member - 1e-6 * step;
    const double numeric = ((Mlstm(plus).h - Mlstm(minus).h) * direction).sum().item<double>() / 2e-6;
    EXPECT_NEAR(((leaf.*member).grad() * step).sum().item<double>(), numeric, 1e-6 * (1 + std::abs(numeric)));
  }
}

SlstmInput DrawSlstm(int64_t steps) {
  Random random({8});
  return {NormalTensor(random, {2, steps, 4, 3, 4}, 1.5), NormalTensor(random, {4, 3, 4, 4}, 0.5), {}};
}

// (c,n,h) of one head in true units, [3,d], one step on.
at::Tensor TrueStep(const SlstmInput& input, int64_t b, int64_t t, int64_t head, const at::Tensor& state) {
  const auto y = [&](int gate) {
    return input.gates[b][t][gate][head] + (input.recurrent[gate][head] * state[2]).sum(-1);
  };
  const at::Tensor i = at::exp(y(0)), f = y(1).sigmoid();
  const at::Tensor c = f * state[0] + i * y(2).tanh(), n = f * state[1] + i;
  return at::stack({c, n, y(3).sigmoid() * c / n});
}

TEST(SlstmTest, EqualsTheRecurrenceInTrueUnits) {
  const SlstmInput input = DrawSlstm(12);
  const SlstmOutput output = Slstm(input);
  for (int64_t head = 0; head < 3; ++head) {
    at::Tensor state = at::zeros({3, 4}, c10::kDouble);
    for (int64_t t = 0; t < 12; ++t) {
      state = TrueStep(input, 1, t, head, state);
      const at::Tensor found = output.states.select(1, 1).select(1, t + 1).select(1, head);  // [4,d]
      EXPECT_LE(RelativeDifference(found[0], state[2]), 1e-12);
      EXPECT_LE(RelativeDifference(found[1] * at::exp(found[3]), state[0]), 1e-12);
      EXPECT_LE(RelativeDifference(found[2] * at::exp(found[3]), state[1]), 1e-12);
    }
  }
}

TEST(SlstmTest, ChunksOfTimeEqualTheWhole) {
  const SlstmInput input = DrawSlstm(12);
  const at::Tensor whole = Slstm(input).states;
  SlstmInput part = input;
  part.gates = input.gates.narrow(1, 0, 5);
  part.state = Slstm(part).states.select(2, 5);
  part.gates = input.gates.narrow(1, 5, 7);
  EXPECT_EQ(testing::MaxDifference(Slstm(part).states, whole.narrow(2, 5, 8)), 0);
}

// The Jacobian of true units by finite differences: other units give a similar matrix.
TEST(SlstmTest, JacobiansAreSimilarToFiniteDifferences) {
  const SlstmInput input = DrawSlstm(6);
  const SlstmOutput output = Slstm(input);
  const at::Tensor jacobians = SlstmJacobian(input, output, 1, 5);
  ASSERT_EQ(jacobians.sizes().vec(), (std::vector<int64_t>{2, 5, 3, 12, 12}));
  for (int64_t t = 1; t < 6; ++t) {
    for (int64_t head = 0; head < 3; ++head) {
      const auto units = [&](int64_t step) {  // e^m of c and n, 1 of h: [12]
        const at::Tensor unit = at::exp(output.states[3][0][step][head]);
        return at::cat({unit, unit, at::ones_like(unit)});
      };
      const at::Tensor found = output.states.select(1, 0).select(1, t).select(1, head);
      const at::Tensor scale = units(t + 1), start = at::cat({found[1], found[2], found[0]}) * units(t);
      at::Tensor numeric = at::zeros({12, 12}, c10::kDouble);
      for (int64_t j = 0; j < 12; ++j) {
        const double step = 1e-6 * (std::abs(start[j].item<double>()) + 1e-3);
        at::Tensor plus = start.clone(), minus = start.clone();
        plus[j] += step;
        minus[j] -= step;
        const auto moved = [&](const at::Tensor& x) {
          return TrueStep(input, 0, t, head, x.reshape({3, 4})).flatten();
        };
        numeric.select(1, j).copy_((moved(plus) - moved(minus)) / (2 * step));
      }
      const at::Tensor similar = numeric / scale.unsqueeze(1) * scale.unsqueeze(0);
      EXPECT_LE(RelativeDifference(jacobians[0][t - 1][head], similar), 1e-6);
    }
  }
}

}  // namespace
}  // namespace eigsvc
