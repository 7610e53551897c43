#include "models/layers/wkv.h"

#include <limits>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/full_like.h"
#include "ATen/ops/lerp.h"
#include "ATen/ops/logaddexp.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/zeros_like.h"

namespace eigsvc {
namespace {

// A weight in logarithms, and the average that it is of.
struct Averages {
  at::Tensor log_weight, average;
};

// Both together; the weights of `older` have already decayed.
Averages Joined(const Averages& older, const Averages& newer) {
  const at::Tensor share = at::sigmoid(older.log_weight - newer.log_weight).to(newer.average.scalar_type());
  return {at::logaddexp(older.log_weight, newer.log_weight), at::lerp(newer.average, older.average, share)};
}

}  // namespace

WkvOutput Wkv(const WkvInput& input) {
  const int64_t steps = input.k.size(1);
  const at::Tensor k = input.k.to(at::kDouble), decay = input.decay.to(at::kDouble);
  // Of the steps t-m < s <= t at step t, for m = 1, 2, 4, ...
  Averages all{k, input.v};
  for (int64_t m = 1; m < steps; m *= 2) {
    const auto part = [&](int64_t begin, int64_t length) {
      return Averages{all.log_weight.narrow(1, begin, length), all.average.narrow(1, begin, length)};
    };
    Averages older = part(0, steps - m);
    older.log_weight = older.log_weight - static_cast<double>(m) * decay;
    const Averages whole = part(0, m), joined = Joined(older, part(m, steps - m));
    all = {at::cat({whole.log_weight, joined.log_weight}, 1), at::cat({whole.average, joined.average}, 1)};
  }
  Averages first{input.log_weight, input.average};
  if (first.log_weight.defined()) {
    const at::Tensor ages = at::arange(1, steps + 1, k.options()).unsqueeze(-1);  // [T,1]
    all = Joined({first.log_weight - ages * decay, first.average}, all);
  } else {
    first = {at::full_like(k.narrow(1, 0, 1), -std::numeric_limits<double>::infinity()),
             at::zeros_like(input.v.narrow(1, 0, 1))};
  }
  const auto before = [&](const at::Tensor& one, const at::Tensor& rest) {
    return at::cat({one, rest.narrow(1, 0, steps - 1)}, 1);
  };
  const Averages earlier{before(first.log_weight, all.log_weight), before(first.average, all.average)};
  return {Joined(earlier, {k + input.bonus.to(at::kDouble), input.v}).average, earlier.log_weight,
          all.log_weight.narrow(1, steps - 1, 1).clone(), all.average.narrow(1, steps - 1, 1).clone()};
}

}  // namespace eigsvc
