#include "models/layers/conv1d.h"

#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/zeros.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "models/kernels/short_convolution.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::MaxDifference;
using testing::NormalTensor;

// The definition, element by element.
at::Tensor Definition(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const int64_t taps = weight.size(2);
  at::Tensor y = at::zeros(x.sizes(), x.options());
  const auto in = x.accessor<double, 3>(), w = weight.accessor<double, 3>();
  auto out = y.accessor<double, 3>();
  for (int64_t b = 0; b < x.size(0); ++b) {
    for (int64_t t = 0; t < x.size(1); ++t) {
      for (int64_t c = 0; c < x.size(2); ++c) {
        double sum = bias.defined() ? bias.accessor<double, 1>()[c] : 0;
        for (int64_t k = 0; k < taps; ++k) {
          const int64_t source = t - (taps - 1) + k;
          if (source >= 0) sum += w[c][0][k] * in[b][source][c];
        }
        out[b][t][c] = sum;
      }
    }
  }
  return y;
}

class CausalConv1dTest : public ::testing::TestWithParam<int> {};

TEST_P(CausalConv1dTest, EqualsItsDefinition) {
  Random random({1, static_cast<uint64_t>(GetParam())});
  const at::Tensor x = NormalTensor(random, {2, 9, 5}), weight = NormalTensor(random, {5, 1, GetParam()});
  const at::Tensor bias = NormalTensor(random, {5});
  EXPECT_LE(MaxDifference(CausalConv1d(x, weight, bias, {}).output, Definition(x, weight, bias)), 1e-14);
  EXPECT_LE(MaxDifference(CausalConv1d(x, weight, {}, {}).output, Definition(x, weight, {})), 1e-14);
}

// The twin of the CUDA kernel, which takes four taps at most.
TEST_P(CausalConv1dTest, TheKernelsTwinIsTheSame) {
  Random random({3, static_cast<uint64_t>(GetParam())});
  const int64_t taps = GetParam();
  const at::Tensor wide = NormalTensor(random, {2, 9, 8}), x = wide.narrow(2, 2, 5);
  const at::Tensor weight = NormalTensor(random, {5, 1, taps}).to(c10::kFloat),
                   bias = NormalTensor(random, {5}).to(c10::kFloat),
                   tail = NormalTensor(random, {2, taps - 1, 5}).to(c10::kFloat);
  for (const bool silu : {false, true}) {
    for (const bool more : {false, true}) {
      at::Tensor y = at::zeros({2, 9, 5}, c10::kFloat);
      ShortConvolutionProblem problem{Element::kFloat64,
                                      x.const_data_ptr(),
                                      2,
                                      9,
                                      5,
                                      x.stride(0),
                                      x.stride(1),
                                      static_cast<int>(taps),
                                      weight.const_data_ptr<float>()};
      if (more) problem.bias = bias.const_data_ptr<float>();
      if (more && taps > 1) problem.before = tail.const_data_ptr<float>();
      problem.silu = silu;
      problem.y = y.mutable_data_ptr();
      ConvolvePlainly(problem);
      const auto double_of = [&](const at::Tensor& t) { return more ? t.to(c10::kDouble) : at::Tensor(); };
      const at::Tensor expected =
          CausalConv1d(x, weight.to(c10::kDouble), double_of(bias), double_of(tail), silu).output;
      EXPECT_LE(MaxDifference(y, expected), 1e-6) << silu << more;
    }
  }
}

TEST_P(CausalConv1dTest, ChunksWithTheirTailsEqualTheWhole) {
  Random random({2, static_cast<uint64_t>(GetParam())});
  const at::Tensor x = NormalTensor(random, {2, 9, 5}), weight = NormalTensor(random, {5, 1, GetParam()});
  const at::Tensor whole = CausalConv1d(x, weight, {}, {}).output;
  at::Tensor tail;
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const int64_t steps : {1, 1, 5, 2}) {  // shorter than the tail, and longer
    CausalConv1dOutput part = CausalConv1d(x.narrow(1, begin, steps), weight, {}, tail);
    parts.push_back(part.output);
    tail = part.tail;
    begin += steps;
  }
  EXPECT_EQ(MaxDifference(at::cat(parts, 1), whole), 0);
}

INSTANTIATE_TEST_SUITE_P(Taps, CausalConv1dTest, ::testing::Values(1, 2, 3, 4));

}  // namespace
}  // namespace eigsvc
