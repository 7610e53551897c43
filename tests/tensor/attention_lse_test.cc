#include "models/tensor/attention_lse.h"

#include <cmath>
#include <limits>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/logsumexp.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/softmax.h"
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
AttentionOutput FullMatrix(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
  const int64_t share = q.size(1) / k.size(1);
  const at::Tensor keys = k.to(c10::kDouble).repeat_interleave(share, 1);
  const at::Tensor values = v.to(c10::kDouble).repeat_interleave(share, 1);
  at::Tensor scores = at::matmul(q.to(c10::kDouble), keys.transpose(-1, -2)) * scale;
  const at::Tensor seen = at::ones({q.size(2), k.size(2)}, c10::kBool).tril(k.size(2) - q.size(2));
  scores = scores.masked_fill(seen.logical_not(), -std::numeric_limits<double>::infinity());
  return {at::matmul(at::softmax(scores, -1), values), at::logsumexp(scores, -1)};
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
      const AttentionOutput exact = FullMatrix(qt, kt, vt, 0.3);
      AttentionOptions options;
      options.scale = 0.3;
      options.use_fused = fused;
      options.query_block = 7;
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
  const AttentionOutput exact = FullMatrix(q, k, v, 0.125);
  for (const bool fused : {true, false}) {
    AttentionOptions options;
    options.use_fused = fused;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const AttentionOutput found, CausalAttention(q, k, v, options));
    EXPECT_LE(Error(found.lse, exact.lse), 5e-6);
    EXPECT_LE(Error(found.output, exact.output), 5e-6);
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
  const at::Tensor fewer = at::zeros({1, 3, 2, 8});
  EXPECT_THAT(CausalAttention(q, fewer, fewer),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2 keys")));
}

TEST(SelfTestAttentionTest, TheOperatorsOfThisBuildAreGood) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const std::string verdict, SelfTestAttention());
  EXPECT_THAT(verdict, HasSubstr("cpu flash: good"));
  EXPECT_THAT(verdict, Not(HasSubstr("off (")));
}

}  // namespace
}  // namespace eigsvc
