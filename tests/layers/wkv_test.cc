// RWKV-4's averages against sums in true units, step by step.
#include "models/layers/wkv.h"

#include <cmath>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/isfinite.h"
#include "ATen/ops/log.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/zeros.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::MaxDifference;
using testing::NormalTensor;
using testing::RelativeDifference;

WkvInput DrawWkv(int64_t steps, double keys = 2) {
  Random random({3, static_cast<uint64_t>(steps)});
  WkvInput input;
  input.k = NormalTensor(random, {2, steps, 5}, keys);
  input.v = NormalTensor(random, {2, steps, 5});
  input.decay = at::exp(NormalTensor(random, {5}, 2, -1));
  input.bonus = NormalTensor(random, {5});
  return input;
}

struct Expected {
  at::Tensor y, earlier;
};

Expected Sums(const WkvInput& input) {
  at::Tensor a = at::zeros({2, 5}, c10::kDouble), b = at::zeros({2, 5}, c10::kDouble);
  std::vector<at::Tensor> y, earlier;
  for (int64_t t = 0; t < input.k.size(1); ++t) {
    const at::Tensor k = input.k.select(1, t), v = input.v.select(1, t), now = at::exp(input.bonus + k);
    earlier.push_back(at::log(b));
    y.push_back((a + now * v) / (b + now));
    a = at::exp(-input.decay) * a + at::exp(k) * v;
    b = at::exp(-input.decay) * b + at::exp(k);
  }
  return {at::stack(y, 1), at::stack(earlier, 1)};
}

TEST(WkvTest, EqualsSumsInTrueUnits) {
  for (const int64_t steps : {1, 2, 3, 8, 77}) {
    const WkvInput input = DrawWkv(steps);
    const Expected expected = Sums(input);
    const WkvOutput output = Wkv(input);
    EXPECT_LE(RelativeDifference(output.y, expected.y), 1e-13) << steps;
    if (steps > 1) {
      EXPECT_LE(
          MaxDifference(output.earlier.narrow(1, 1, steps - 1), expected.earlier.narrow(1, 1, steps - 1)),
          1e-12);
    }
    EXPECT_TRUE((output.earlier.select(1, 0) == -INFINITY).all().item<bool>());
    WkvInput single = input;
    single.v = input.v.to(c10::kFloat);
    EXPECT_LE(RelativeDifference(Wkv(single).y, expected.y), 1e-6);
  }
}

TEST(WkvTest, ChunksOfTimeEqualTheWhole) {
  const WkvInput input = DrawWkv(40, 5);
  const WkvOutput whole = Wkv(input);
  WkvInput part = input;
  std::vector<at::Tensor> y, earlier;
  for (const auto& [begin, steps] : {std::pair(0, 1), std::pair(1, 1), std::pair(2, 27), std::pair(29, 11)}) {
    part.k = input.k.narrow(1, begin, steps);
    part.v = input.v.narrow(1, begin, steps);
    const WkvOutput output = Wkv(part);
    y.push_back(output.y);
    earlier.push_back(output.earlier);
    part.log_weight = output.log_weight;
    part.average = output.average;
  }
  EXPECT_LE(RelativeDifference(at::cat(y, 1), whole.y), 1e-13);
  EXPECT_LE(MaxDifference(at::cat(earlier, 1).narrow(1, 1, 39), whole.earlier.narrow(1, 1, 39)), 1e-12);
}

TEST(WkvTest, KeysAndDecaysOfAnySizeStayFinite) {
  WkvInput input = DrawWkv(33, 3000);
  input.decay = at::exp(input.decay * 100).clamp_max(1e30);
  EXPECT_TRUE(at::isfinite(Wkv(input).y).all().item<bool>());
}

// Of a uniform average: no decay and equal keys, so that y is the mean of the values so far.
TEST(WkvTest, WithoutDecayItIsAMean) {
  WkvInput input = DrawWkv(9);
  input.k = at::zeros({2, 9, 5}, c10::kDouble);
  input.decay = input.bonus = at::zeros({5}, c10::kDouble);
  const at::Tensor y = Wkv(input).y;
  for (int64_t t = 0; t < 9; ++t) {
    EXPECT_LE(MaxDifference(y.select(1, t), input.v.narrow(1, 0, t + 1).mean(1)), 1e-14);
  }
}

}  // namespace
}  // namespace eigsvc
