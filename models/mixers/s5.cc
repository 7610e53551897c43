#include "models/mixers/s5.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/imag.h"
#include "ATen/ops/log.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/real.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/view_as_complex.h"
#include "models/layers/hippo.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {
namespace {

at::Tensor Drawn(const Draw& draw, Random& random, at::IntArrayRef shape) {
  at::Tensor x = at::empty(shape, at::kDouble);
  double* data = x.mutable_data_ptr<double>();
  for (int64_t i = 0; i < x.numel(); ++i) data[i] = draw(random);
  return x;
}

// Complex x as real and imaginary parts in a last dimension.
void CopyParts(const at::Tensor& x, absl::Span<double> values) {
  const at::Tensor parts = at::stack({at::real(x), at::imag(x)}, -1).contiguous();
  std::copy_n(parts.const_data_ptr<double>(), values.size(), values.begin());
}

}  // namespace

void S5::Plan(const WeightPlanner& planner) const {
  const int64_t width = spec_.width, order = spec_.order, blocks = spec_.blocks, kept = order / blocks,
                full = spec_.conjugate_pairs ? 2 * kept : kept;  // states of a block, and of which kept
  const auto add = [&](const char* weight, std::vector<int64_t> shape) -> WeightSpec& {
    WeightSpec& spec = planner.Add(Name(weight), std::move(shape), DrawConstant(-0.5));
    spec.keep_float32 = true;
    spec.decays = false;
    return spec;
  };
  add("Lambda_re", {order});
  add("Lambda_im", {order}).draw_tensor = [=](Random&, const Weights&, absl::Span<double> values) {
    const at::Tensor frequencies = at::imag(HippoLegS(full).lambda).contiguous();
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = frequencies.const_data_ptr<double>()[i % kept];
    }
  };
  add("B", {order, width, 2}).draw_tensor = [=](Random& random, const Weights&, absl::Span<double> values) {
    const at::Tensor basis = HippoLegS(full).vectors.narrow(1, 0, kept).mH();  // [kept,full]
    const at::Tensor drawn = Drawn(DrawLecunNormal(full * blocks), random, {blocks, full, width});
    CopyParts(at::matmul(basis, drawn.to(at::kComplexDouble)).flatten(0, 1), values);
  };
  WeightSpec& c = planner.Add(Name("C"), {width, order, 2}, DrawNormal(std::sqrt(0.5)));
  if (spec_.output_draw != S5Spec::OutputDraw::kComplexNormal) {
    const bool lecun = spec_.output_draw == S5Spec::OutputDraw::kLecun;
    c.draw_tensor = [=](Random& random, const Weights&, absl::Span<double> values) {
      const at::Tensor basis = HippoLegS(full).vectors.narrow(1, 0, kept);
      const Draw draw = DrawLecunNormal(full * blocks * (lecun ? width : 1));
      const at::Tensor parts = Drawn(draw, random, {width, blocks, full, 2});
      CopyParts(at::matmul(at::view_as_complex(parts), basis).flatten(1, 2), values);
    };
  }
  planner.Add(Name("D"), {width}, DrawNormal(1));
  add("log_step", {order, 1}).draw = DrawUniform(std::log(spec_.least_step), std::log(spec_.largest_step));
}

DiagonalLayer::System S5::MakeSystem(const LayerCall& call) const {
  const auto wide = [&](const char* weight) { return Weight(call, weight).to(at::kDouble); };
  at::Tensor real = wide("Lambda_re");
  if (spec_.clip) real = real.clamp_max(-1e-4);
  const at::Tensor lambda = at::complex(real, wide("Lambda_im"));
  const at::Tensor step = at::exp(wide("log_step")).squeeze(-1), scaled = lambda * step;
  // b̄ = factor·b.
  at::Tensor log_lambda = scaled, factor;
  if (spec_.bilinear) {
    log_lambda = at::log((1 + scaled / 2) / (1 - scaled / 2));
    factor = step / (1 - scaled / 2);
  } else {
    factor = (at::exp(scaled) - 1) / lambda;
  }
  const at::Tensor b = at::view_as_complex(wide("B")) * factor.unsqueeze(-1), c = wide("C");
  const double scale = spec_.conjugate_pairs ? 2 : 1;
  Transition transition;
  transition.kind =
      Diagonal{scaled.detach().view({1, 1, 1, -1}),
               spec_.bilinear ? Discretization::kBilinear : Discretization::kExp, spec_.conjugate_pairs};
  transition.constant = true;
  transition.noise_floor = RoundingNoise(at::kDouble);
  return {
      log_lambda,        at::real(b),          at::imag(b), scale * c.select(-1, 0), scale * c.select(-1, 1),
      Weight(call, "D"), std::move(transition)};
}

}  // namespace eigsvc
