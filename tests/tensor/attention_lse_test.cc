#include "models/tensor/attention_lse.h"

#include <cmath>
#include <limits>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/logsumexp.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/softmax.h"
#include "ATen/ops/tanh.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "models/base/stop_token.h"
#include "models/tensor/torch_call.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::StatusIs;

at::Tensor Normal(Random& random, at::IntArrayRef shape, double size = 1) {
  at::Tensor x = at::zeros(shape, c10::kDouble);
  double* data = x.mutable_data_ptr<double>();
  for (int64_t i = 0; i < x.numel(); ++i) data[i] = size * random.Normal();
  return x;
}

// The definition itself, with the whole matrix of scores in float64.
AttentionOutput FullMatrix(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const AttentionOptions& options) {
  const int64_t share = q.size(1) / k.size(1), rows = q.size(2), keys = k.size(2);
  const at::Tensor repeated = k.to(c10::kDouble).repeat_interleave(share, 1);
  const at::Tensor values = v.to(c10::kDouble).repeat_interleave(share, 1);
  at::Tensor scores = at::matmul(q.to(c10::kDouble), repeated.transpose(-1, -2)) * options.scale;
  if (options.cap > 0) scores = at::tanh(scores / options.cap) * options.cap;
  at::Tensor seen = at::ones({rows, keys}, c10::kBool).tril(keys - rows);
  if (options.window > 0) seen = seen.logical_and(seen.triu(keys - rows - options.window + 1));
  scores = scores.masked_fill(seen.logical_not(), -std::numeric_limits<double>::infinity());
  if (options.sinks.defined()) {
    const at::Tensor sinks = options.sinks.to(c10::kDouble).view({1, -1, 1, 1});
    scores = at::cat({scores, sinks.expand({q.size(0), q.size(1), rows, 1})}, -1);
  }
  const at::Tensor weights = at::softmax(scores, -1).narrow(-1, 0, keys);
  return {at::matmul(weights, values), at::logsumexp(scores, -1)};
}

double Error(const at::Tensor& found, const at::Tensor& exact) {
  return (found.to(c10::kDouble) - exact).abs().max().item<double>();
}

struct Shape {
  int64_t batch, heads, groups, rows, keys, head_size, value_size;
};
void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.batch << "x" << s.heads << "/" << s.groups << " rows " << s.rows << " of " << s.keys << " sizes "
       << s.head_size << "," << s.value_size;
}

class CausalAttentionTest : public ::testing::TestWithParam<Shape> {};

TEST_P(CausalAttentionTest, FusedAndPlainEqualTheFullMatrix) {
  const Shape s = GetParam();
  Random random({17});
  const at::Tensor q = Normal(random, {s.batch, s.heads, s.rows, s.head_size}, 2);
  const at::Tensor k = Normal(random, {s.batch, s.groups, s.keys, s.head_size});
  const at::Tensor v = Normal(random, {s.batch, s.groups, s.keys, s.value_size});
  for (const bool fused : {true, false}) {
    for (const auto type : {c10::kDouble, c10::kFloat, c10::kBFloat16}) {
      const at::Tensor qt = q.to(type), kt = k.to(type), vt = v.to(type);
      AttentionOptions options;
      options.scale = 0.3;
      options.use_fused = fused;
      options.query_block = 7;
      const AttentionOutput exact = FullMatrix(qt, kt, vt, options);
      EIGSVC_ASSERT_OK_AND_ASSIGN(const AttentionOutput found, CausalAttention(qt, kt, vt, options));
      EXPECT_EQ(found.output.scalar_type(), type);
      EXPECT_EQ(found.lse.scalar_type(), type == c10::kDouble ? c10::kDouble : c10::kFloat);
      EXPECT_EQ(found.output.sizes(), exact.output.sizes());
      ASSERT_EQ(found.lse.sizes(), exact.lse.sizes());
      const double tolerance = type == c10::kDouble ? 1e-13 : 5e-6;
      EXPECT_LE(Error(found.lse, exact.lse), tolerance) << c10::toString(type) << " fused " << fused;
      EXPECT_LE(Error(found.output, exact.output), type == c10::kBFloat16 ? 0.05 : tolerance);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CausalAttentionTest,
                         ::testing::Values(Shape{1, 1, 1, 1, 1, 4, 4}, Shape{2, 4, 4, 33, 33, 8, 8},
                                           Shape{2, 8, 2, 31, 31, 16, 16}, Shape{1, 3, 1, 17, 17, 5, 9},
                                           Shape{2, 2, 2, 19, 19, 12, 4}, Shape{2, 4, 2, 5, 40, 8, 8},
                                           Shape{1, 6, 3, 1, 21, 8, 11}));

// Large enough to be cut into sequences, groups and rows: 2·4·2·1100²·128 = 2.5 GFLOP a group.
TEST(CausalAttentionPiecesTest, PiecesEqualTheFullMatrix) {
  Random random({5});
  const at::Tensor q = Normal(random, {2, 4, 1100, 64}).to(c10::kFloat);
  const at::Tensor k = Normal(random, {2, 1, 1500, 64}).to(c10::kFloat);
  const at::Tensor v = Normal(random, {2, 1, 1500, 64}).to(c10::kFloat);
  AttentionOptions options;
  options.scale = 0.125;
  const AttentionOutput exact = FullMatrix(q, k, v, options);
  for (const bool fused : {true, false}) {
    options.use_fused = fused;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const AttentionOutput found, CausalAttention(q, k, v, options));
    EXPECT_LE(Error(found.lse, exact.lse), 5e-6);
    EXPECT_LE(Error(found.output, exact.output), 5e-6);
  }
}

// Windows from one key to all of them, capped scores, sinks, and all of it at once.
TEST_P(CausalAttentionTest, WindowsCapsAndSinksEqualTheFullMatrix) {
  const Shape s = GetParam();
  Random random({18});
  const at::Tensor q = Normal(random, {s.batch, s.heads, s.rows, s.head_size}, 2);
  const at::Tensor k = Normal(random, {s.batch, s.groups, s.keys, s.head_size});
  const at::Tensor v = Normal(random, {s.batch, s.groups, s.keys, s.value_size});
  for (const int64_t window : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{8}, s.keys - 1, s.keys}) {
    for (const double cap : {0.0, 1.5}) {
      for (const bool sinks : {false, true}) {
        AttentionOptions options;
        options.scale = 0.3;
        options.query_block = 7;
        options.window = window;
        options.cap = cap;
        if (sinks) options.sinks = Normal(random, {s.heads}, 2);
        const AttentionOutput exact = FullMatrix(q, k, v, options);
        EIGSVC_ASSERT_OK_AND_ASSIGN(const AttentionOutput found, CausalAttention(q, k, v, options));
        ASSERT_EQ(found.lse.sizes(), exact.lse.sizes());
        EXPECT_LE(Error(found.lse, exact.lse), 1e-13) << window << " cap " << cap << " sinks " << sinks;
        EXPECT_LE(Error(found.output, exact.output), 1e-13);
      }
    }
  }
}

// Wide enough for the operators, over rows whose windows are not full yet, full ones and an odd rest.
TEST(CausalAttentionPiecesTest, WideWindowsEqualTheFullMatrix) {
  Random random({15});
  const at::Tensor q = Normal(random, {2, 4, 700, 16}), k = Normal(random, {2, 2, 900, 16}),
                   v = Normal(random, {2, 2, 900, 12});
  const at::Tensor sinks = Normal(random, {4});
  for (const int64_t window : {128, 129, 211, 699, 700, 899}) {
    for (const auto type : {c10::kDouble, c10::kFloat}) {
      for (const bool fused : {true, false}) {
        AttentionOptions options;
        options.scale = 0.5;
        options.window = window;
        options.use_fused = fused;
        if (window != 129) options.sinks = sinks;
        const at::Tensor qt = q.to(type), kt = k.to(type), vt = v.to(type);
        const AttentionOutput exact = FullMatrix(qt, kt, vt, options);
        EIGSVC_ASSERT_OK_AND_ASSIGN(const AttentionOutput found, CausalAttention(qt, kt, vt, options));
        const double tolerance = type == c10::kDouble ? 1e-13 : 5e-6;
        EXPECT_LE(Error(found.lse, exact.lse), tolerance) << window << " fused " << fused;
        EXPECT_LE(Error(found.output, exact.output), tolerance);
      }
    }
  }
}

TEST(CausalAttentionGradientTest, WindowsCapsAndSinksHaveTheFullMatrixsGradients) {
  Random random({9});
  const at::Tensor weight = Normal(random, {2, 4, 13, 6});
  const std::vector<at::Tensor> given = {Normal(random, {2, 4, 13, 8}), Normal(random, {2, 2, 13, 8}),
                                         Normal(random, {2, 2, 13, 6}), Normal(random, {4})};
  const auto gradients = [&](const auto& attend) {
    std::vector<at::Tensor> inputs;
    for (const at::Tensor& x : given) inputs.push_back(x.clone().set_requires_grad(true));
    AttentionOptions options;
    options.scale = 0.7;
    options.window = 5;
    options.cap = 2;
    options.query_block = 4;
    options.sinks = inputs[3];
    (attend(inputs, options) * weight).sum().backward();
    std::vector<at::Tensor> found;
    for (const at::Tensor& x : inputs) found.push_back(x.grad());
    return found;
  };
  const auto found = gradients([](const std::vector<at::Tensor>& x, const AttentionOptions& options) {
    return CausalAttention(x[0], x[1], x[2], options)->output;
  });
  const auto exact = gradients([](const std::vector<at::Tensor>& x, const AttentionOptions& options) {
    return FullMatrix(x[0], x[1], x[2], options).output;
  });
  for (size_t i = 0; i < given.size(); ++i) {
    EXPECT_GT(exact[i].abs().max().item<double>(), 1e-3);
    EXPECT_LE(Error(found[i], exact[i]), 1e-12);
  }
}

TEST(CausalAttentionGradientTest, FusedAndPlainGiveTheSameGradients) {
  Random random({8});
  const at::Tensor weight = Normal(random, {2, 4, 13, 6});
  const auto gradients = [&](bool fused, int64_t rows, const at::Tensor& q, const at::Tensor& k,
                             const at::Tensor& v) {
    std::vector<at::Tensor> inputs;
    for (const at::Tensor& x : {q, k, v}) inputs.push_back(x.clone().set_requires_grad(true));
    AttentionOptions options;
    options.use_fused = fused;
    options.query_block = 4;
    const absl::StatusOr<AttentionOutput> result =
        CausalAttention(inputs[0].narrow(2, q.size(2) - rows, rows), inputs[1], inputs[2], options);
    (result->output * weight.narrow(2, 0, rows)).sum().backward();
    std::vector<at::Tensor> found;
    for (const at::Tensor& x : inputs) found.push_back(x.grad());
    return found;
  };
  const at::Tensor q = Normal(random, {2, 4, 13, 8}), k = Normal(random, {2, 2, 13, 8}),
                   v = Normal(random, {2, 2, 13, 6});
  for (const int64_t rows : {13, 5}) {  // a whole sequence, and a chunk behind a prefix
    const auto fused = gradients(true, rows, q, k, v), plain = gradients(false, rows, q, k, v);
    for (int i = 0; i < 3; ++i) {
      EXPECT_GT(plain[i].abs().max().item<double>(), 1e-3);
      EXPECT_LE(Error(fused[i], plain[i]), 1e-12);
    }
  }
}

TEST(CausalAttentionStopTest, ACancelEndsALongCallBetweenPieces) {
  Random random({6});
  const at::Tensor q = Normal(random, {1, 8, 2048, 64}).to(c10::kFloat);
  StopToken stop(absl::Now() + absl::Milliseconds(20));
  AttentionOptions options;
  options.stop = &stop;
  const absl::Time start = absl::Now();
  absl::Status status = absl::OkStatus();
  while (status.ok() && absl::Now() < start + absl::Seconds(20))
    status = CausalAttention(q, q, q, options).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("deadline")));
  stop.Cancel();
  EXPECT_THAT(CausalAttention(q, q, q, options),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
}

TEST(CausalAttentionShapeTest, ImpossibleShapesAreRefused) {
  const at::Tensor q = at::zeros({1, 3, 4, 8}), k = at::zeros({1, 2, 4, 8});
  EXPECT_THAT(CausalAttention(q, k, k), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("3 heads")));
  AttentionOptions sinks;
  sinks.sinks = at::zeros({2});
  EXPECT_THAT(CausalAttention(q, q, q, sinks),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2 sinks")));
  const at::Tensor fewer = at::zeros({1, 3, 2, 8});
  EXPECT_THAT(CausalAttention(q, fewer, fewer),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2 keys")));
}

TEST(SelfTestAttentionTest, TheOperatorsOfThisBuildAreGood) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const std::string verdict, SelfTestAttention(c10::kCPU));
  EXPECT_THAT(verdict, HasSubstr("cpu flash: good"));
  EXPECT_THAT(verdict, Not(HasSubstr("off (")));
}

}  // namespace
}  // namespace eigsvc
