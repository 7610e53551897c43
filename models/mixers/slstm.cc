#include "models/mixers/slstm.h"

#include <algorithm>
#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/zeros_like.h"
#include "models/base/status_macros.h"
#include "models/layers/mlp.h"
#include "models/layers/norm.h"
#include "models/layers/slstm.h"
#include "models/mixers/short_convolution.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {
namespace {

// Of a stretch of time, since a Jacobian is large.
absl::Status Report(const LayerCall& call, const SlstmInput& input, const SlstmOutput& output, double noise) {
  const at::NoGradGuard no_grad;
  const int64_t batch = input.gates.size(0), steps = input.gates.size(1), heads = input.gates.size(3),
                size = 3 * input.gates.size(4);
  const int64_t stretch = std::max<int64_t>((int64_t{1} << 23) / (batch * heads * size * size), 1);
  for (int64_t begin = 0; begin < steps; begin += stretch) {
    if (call.context.stop != nullptr) EIGSVC_RETURN_IF_ERROR(call.context.stop->Check());
    Dense kind{SlstmJacobian(input, output, begin, std::min(stretch, steps - begin))};
    EIGSVC_RETURN_IF_ERROR(
        call.Report(kSlstmMixer, UnitKind::kHead,
                    {std::move(kind), /*constant=*/false, call.state.position + begin, noise}));
  }
  return absl::OkStatus();
}

}  // namespace

// As the library initialises it with recurrent weights "standard": with its default, zero, a third of the
// Jacobian's eigenvalues would be zero.
void SlstmLayer::Plan(const WeightPlanner& planner) const {
  const int64_t size = spec_.head_size(), heads = spec_.heads;
  const Draw small = DrawNormal(std::sqrt(2 / (5 * static_cast<double>(spec_.width))));
  if (spec_.taps > 0) {
    PlanShortConvolution(planner, Name("conv1d.conv"), spec_.width, spec_.taps, /*bias=*/true);
  }
  for (const char* const gate : {"igate", "fgate", "zgate", "ogate"}) {
    planner.Add(Name(gate) + ".weight", {heads, size, size}, small);
  }
  const double bound = 1 / std::sqrt(static_cast<double>(spec_.width));
  planner
      .Add(Name("slstm_cell._recurrent_kernel_"),
           spec_.cuda_layout ? std::vector<int64_t>{heads, size, 4 * size}
                             : std::vector<int64_t>{heads, 4 * size, size},
           DrawUniform(-bound, bound))
      .keep_float32 = true;
  WeightSpec& bias = planner.Add(Name("slstm_cell._bias_"), {4 * spec_.width}, nullptr);
  const double to_one =
      spec_.layers > 1 ? static_cast<double>(spec_.layer) / static_cast<double>(spec_.layers - 1) : 0;
  bias.draw_tensor = DrawByIndex([=, cuda = spec_.cuda_layout](int64_t i) {
    const int64_t gate = cuda ? i / size % 4 : i / (heads * size);
    if (gate != 1) return 0.0;
    const double ramp = size > 1 ? static_cast<double>(i % size) / static_cast<double>(size - 1) : 0;
    return 5 - 12 * std::pow(ramp, 0.3 + 1.3 * to_one);
  });
  bias.keep_float32 = true;
  if (spec_.norm_weight) planner.Add(Name("group_norm.weight"), {spec_.width}, DrawConstant(0));
}

absl::StatusOr<at::Tensor> SlstmLayer::Run(const LayerCall& call, const at::Tensor& x) const {
  const int64_t size = spec_.head_size(), heads = spec_.heads;
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  const at::Tensor convolved =
      spec_.taps > 0 ? ShortConvolution(call, Name("conv1d.conv"), x, /*silu=*/true) : x;
  const auto gate = [&](const char* rest, const at::Tensor& input) {
    return HeadwiseLinear(input, Weight(call, std::string(rest) + ".weight"))
        .to(type)
        .unflatten(-1, {heads, size});
  };
  // The library hands the cell's input gate what it calls fgate, and its forget gate igate; checkpoints are
  // trained so.
  at::Tensor gates =
      at::stack({gate("fgate", convolved), gate("igate", convolved), gate("zgate", x), gate("ogate", x)}, 2);
  const at::Tensor bias = Weight(call, "slstm_cell._bias_").to(type);
  const at::Tensor kernel = Weight(call, "slstm_cell._recurrent_kernel_").to(type);
  SlstmInput input;
  if (spec_.cuda_layout) {
    gates = gates + bias.view({heads, 4, size}).transpose(0, 1);
    input.recurrent = kernel.view({heads, size, 4, size}).permute({2, 0, 3, 1});
  } else {
    gates = gates + bias.view({4, heads, size});
    input.recurrent = kernel.view({heads, 4, size, size}).transpose(0, 1);
  }
  input.gates = gates;
  at::Tensor& state = State(call, "state");
  input.state = state;
  const SlstmOutput output = Slstm(input);
  const int64_t steps = x.size(1);
  state = output.states.select(2, steps).clone();
  if (call.Wants(kSlstmMixer)) {
    EIGSVC_RETURN_IF_ERROR(Report(call, input, output, RoundingNoise(x.scalar_type())));
  }
  const at::Tensor h = output.states[0].narrow(1, 1, steps).to(x.scalar_type());
  const at::Tensor weight =
      spec_.norm_weight ? Weight(call, "group_norm.weight") + 1 : at::ones({spec_.width}, x.options());
  return GroupNorm(h, weight, at::zeros_like(weight), 1e-5);
}

std::vector<MixerDescription> SlstmLayer::Mixers() const {
  return {{std::string(kSlstmMixer), UnitKind::kHead, spec_.heads, 3 * spec_.head_size(), 1,
           /*constant=*/false, TransitionForm::kDense}};
}

// Step by step, each of which waits for the last.
double SlstmLayer::ExtraOperations() const { return 1e6 + 100 * static_cast<double>(4 * spec_.width); }

}  // namespace eigsvc
