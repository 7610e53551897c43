#include "models/mixers/state_space_storage.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/imag.h"
#include "ATen/ops/real.h"
#include "ATen/ops/relu.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/softplus.h"
#include "ATen/ops/view_as_complex.h"
#include "models/layers/hippo.h"

namespace eigsvc {
namespace {

at::Tensor Transformed(PositiveTransform transform, const at::Tensor& x) {
  switch (transform) {
    case PositiveTransform::kNone:
      break;
    case PositiveTransform::kExp:
      return at::exp(x);
    case PositiveTransform::kRelu:
      return at::relu(x) + 1e-4;
    case PositiveTransform::kSigmoid:
      return at::sigmoid(x);
    case PositiveTransform::kSoftplus:
      return at::softplus(x);
  }
  return x;
}

// What a fresh value is stored as.
double Stored(PositiveTransform transform, double value) {
  value = std::max(value, 1e-4);
  switch (transform) {
    case PositiveTransform::kNone:
    case PositiveTransform::kRelu:
      break;
    case PositiveTransform::kExp:
      return std::log(value);
    case PositiveTransform::kSigmoid:
      return std::log(value / (1 - value));
    case PositiveTransform::kSoftplus:
      return std::log(std::expm1(value));
  }
  return value;
}

}  // namespace

void PlanStateSpace(const WeightPlanner& planner, const std::string& prefix,
                    const StateSpaceStorage& storage) {
  const int64_t order = storage.order, copies = storage.copies;
  const auto add = [&](const char* name, std::vector<int64_t> shape) -> WeightSpec& {
    WeightSpec& spec = planner.Add(prefix + name, std::move(shape), DrawConstant(0));
    spec.keep_float32 = true;
    spec.decays = false;
    return spec;
  };
  // Every copy starts the same.
  const auto table = [](std::function<std::vector<double>()> one) {
    return [one = std::move(one)](Random&, const Weights&, absl::Span<double> values) {
      const std::vector<double> copy = one();
      for (size_t i = 0; i < values.size(); ++i) values[i] = copy[i % copy.size()];
    };
  };
  std::vector<int64_t> step_shape = {storage.width};
  if (!storage.flat_step) step_shape.push_back(1);
  const double low = std::log(storage.least_step), high = std::log(storage.largest_step);
  add("inv_dt", step_shape).draw = [=, transform = storage.step](Random& random) {
    return Stored(transform, std::exp(low + (high - low) * random.Unit()));
  };
  add("A_real", {copies, order}).draw = DrawConstant(Stored(storage.decay, 0.5));
  add("A_imag", {copies, order}).draw_tensor = table([=] {
    std::vector<double> values;
    const at::Tensor legs = storage.legs ? at::imag(HippoLegS(2 * order).lambda).contiguous() : at::Tensor();
    for (int64_t n = 0; n < order; ++n) {
      const double frequency =
          legs.defined() ? -legs.const_data_ptr<double>()[n] : std::numbers::pi * static_cast<double>(n);
      values.push_back(storage.positive_frequency ? -frequency : Stored(storage.frequency, frequency));
    }
    return values;
  });
  add("B", {1, copies, order, 2}).draw_tensor = table([=] {
    std::vector<double> values;
    const at::Tensor legs = storage.legs ? HippoLegS(2 * order).b : at::Tensor();
    for (int64_t n = 0; n < order; ++n) {
      const c10::complex<double> b =
          legs.defined() ? legs.const_data_ptr<c10::complex<double>>()[n] : c10::complex<double>(1, 0);
      values.push_back(b.real());
      values.push_back(std::clamp(b.imag(), -2.0, 2.0));  // the reference: for stability
    }
    return values;
  });
  add("C", {storage.outputs, storage.width, order, 2}).draw = DrawNormal(std::sqrt(0.5));
}

at::Tensor RepeatCopies(const at::Tensor& x, int64_t width) {
  std::vector<int64_t> repeats(x.dim(), 1);
  repeats[0] = width / x.size(0);
  return repeats[0] == 1 ? x : x.repeat(repeats);
}

StateSpaceParts ReadStateSpace(const Weights& weights, const std::string& prefix,
                               const StateSpaceStorage& storage) {
  const auto wide = [&](const char* name) { return weights[prefix + name].to(at::kDouble); };
  const at::Tensor frequency = Transformed(storage.frequency, wide("A_imag"));
  const at::Tensor a = at::complex(-Transformed(storage.decay, wide("A_real")),
                                   storage.positive_frequency ? frequency : -frequency);
  return {RepeatCopies(a, storage.width),
          RepeatCopies(at::view_as_complex(wide("B").contiguous()).squeeze(0), storage.width),
          at::view_as_complex(wide("C").contiguous()), Transformed(storage.step, wide("inv_dt").view({-1}))};
}

}  // namespace eigsvc
