#include "models/mixers/rnn.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "ATen/Context.h"
#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/gru.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/log_sigmoid.h"
#include "ATen/ops/lstm.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/rnn_relu.h"
#include "ATen/ops/rnn_tanh.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/tanh.h"
#include "ATen/ops/zeros.h"
#include "ATen/ops/zeros_like.h"
#include "models/base/status_macros.h"
#include "models/layers/diagonal_scan.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {
namespace {

// cuDNN's tanh is an approximation whose error reaches the Jacobian's 1 - tanh². For the process while it
// lives: what others run meanwhile is as right, perhaps slower.
class WithoutCudnn {
 public:
  WithoutCudnn() : before_(at::globalContext().userEnabledCuDNN()) {
    at::globalContext().setUserEnabledCuDNN(false);
  }
  ~WithoutCudnn() { at::globalContext().setUserEnabledCuDNN(before_); }
  WithoutCudnn(const WithoutCudnn&) = delete;
  WithoutCudnn& operator=(const WithoutCudnn&) = delete;

 private:
  const bool before_;
};

}  // namespace

absl::string_view RnnMixer(RnnKind kind) {
  return kind == RnnKind::kLstm ? "lstm" : kind == RnnKind::kGru ? "gru" : "rnn";
}

void Rnn::Plan(const WeightPlanner& planner) const {
  const int64_t rows = spec_.gates() * spec_.hidden;
  const Draw draw = DrawLinear(spec_.hidden);  // torch.nn's own
  planner.Add(Name("weight_ih"), {rows, spec_.input}, draw);
  planner.Add(Name("weight_hh"), {rows, spec_.hidden}, draw);
  if (!spec_.bias) return;
  planner.Add(Name("bias_ih"), {rows}, draw);
  planner.Add(Name("bias_hh"), {rows}, draw);
}

absl::StatusOr<at::Tensor> Rnn::Run(const LayerCall& call, const at::Tensor& x) const {
  std::vector<at::Tensor> weights = {Weight(call, "weight_ih"), Weight(call, "weight_hh")};
  if (spec_.bias) {
    weights.push_back(Weight(call, "bias_ih"));
    weights.push_back(Weight(call, "bias_hh"));
  }
  at::Tensor h = State(call, "h"), cell = State(call, "c");
  if (!h.defined()) h = at::zeros({1, x.size(0), spec_.hidden}, x.options());
  if (!cell.defined() && spec_.kind == RnnKind::kLstm) cell = at::zeros_like(h);
  const at::Tensor first_h = h, first_cell = cell;
  const bool train = at::GradMode::is_enabled();  // cuDNN keeps what gradients need; there is no dropout
  at::Tensor output;
  switch (spec_.kind) {
    case RnnKind::kLstm:
      std::tie(output, h, cell) = at::lstm(x, {h, cell}, weights, spec_.bias, 1, 0.0, train, false, true);
      break;
    case RnnKind::kGru:
      std::tie(output, h) = at::gru(x, h, weights, spec_.bias, 1, 0.0, train, false, true);
      break;
    case RnnKind::kTanh: {
      const WithoutCudnn plain;
      std::tie(output, h) = at::rnn_tanh(x, h, weights, spec_.bias, 1, 0.0, train, false, true);
      break;
    }
    case RnnKind::kRelu:
      std::tie(output, h) = at::rnn_relu(x, h, weights, spec_.bias, 1, 0.0, train, false, true);
      break;
  }
  State(call, "h") = h;
  State(call, "c") = cell;
  if (call.Wants(RnnMixer(spec_.kind))) {
    const at::NoGradGuard no_grad;
    EIGSVC_RETURN_IF_ERROR(Report(call, x, first_h, first_cell, output));
  }
  return output;
}

at::Tensor Rnn::Affine(const LayerCall& call, const char* weight, const char* bias,
                       const at::Tensor& x) const {
  const at::Tensor wide = Weight(call, weight).to(x.scalar_type());
  return spec_.bias ? at::linear(x, wide, Weight(call, bias).to(x.scalar_type())) : at::linear(x, wide);
}

// The gates and Jacobians of all steps at once, from the states that the forward pass left: of a stretch of
// time, since a Jacobian is large.
absl::Status Rnn::Report(const LayerCall& call, const at::Tensor& x, const at::Tensor& first_h,
                         const at::Tensor& first_cell, const at::Tensor& h) const {
  const auto wide = at::promote_types(x.scalar_type(), at::kFloat);
  const int64_t steps = x.size(1), size = spec_.state();
  const at::Tensor before = at::cat({first_h.transpose(0, 1), h.narrow(1, 0, steps - 1)}, 1).to(wide);
  const at::Tensor inputs = x.to(wide), after = h.to(wide);
  at::Tensor cell_before, cell;
  if (spec_.kind == RnnKind::kLstm) {
    const std::vector<at::Tensor> gates =
        (Affine(call, "weight_ih", "bias_ih", inputs) + Affine(call, "weight_hh", "bias_hh", before))
            .chunk(4, -1);
    const at::Tensor start = first_cell.squeeze(0).to(wide);
    cell = DiagonalScan(at::log_sigmoid(gates[1]), at::sigmoid(gates[0]) * at::tanh(gates[2]), start);
    cell_before = at::cat({start.unsqueeze(1), cell.narrow(1, 0, steps - 1)}, 1);
  }
  const int64_t stretch = std::max<int64_t>((int64_t{1} << 23) / (x.size(0) * size * size), 1);
  for (int64_t begin = 0; begin < steps; begin += stretch) {
    if (call.context.stop != nullptr) EIGSVC_RETURN_IF_ERROR(call.context.stop->Check());
    const auto part = [&](const at::Tensor& tensor) {
      return tensor.defined() ? tensor.narrow(1, begin, std::min(stretch, steps - begin)) : tensor;
    };
    Transition transition;
    transition.kind = Dense{
        Jacobians(call, part(inputs), part(before), part(after), part(cell_before), part(cell)).unsqueeze(2)};
    transition.first_step = call.state.position + begin;
    transition.noise_floor = RoundingNoise(x.scalar_type());
    EIGSVC_RETURN_IF_ERROR(call.Report(RnnMixer(spec_.kind), UnitKind::kLayer, std::move(transition)));
  }
  return absl::OkStatus();
}

// The rows of one gate.
at::Tensor Rnn::Part(const LayerCall& call, const char* rest, int64_t gate, at::ScalarType type) const {
  return Weight(call, rest).detach().narrow(0, gate * spec_.hidden, spec_.hidden).to(type);
}

at::Tensor Rnn::Jacobians(const LayerCall& call, const at::Tensor& x, const at::Tensor& before,
                          const at::Tensor& after, const at::Tensor& cell_before,
                          const at::Tensor& cell) const {
  const at::Tensor from_x = Affine(call, "weight_ih", "bias_ih", x),
                   from_h = Affine(call, "weight_hh", "bias_hh", before);
  const auto rows = [&](int64_t gate) { return Part(call, "weight_hh", gate, x.scalar_type()); };
  // diag(scale)·matrix of each step.
  const auto scaled = [](const at::Tensor& scale, const at::Tensor& matrix) {
    return scale.unsqueeze(-1) * matrix;
  };
  switch (spec_.kind) {
    case RnnKind::kLstm: {
      const std::vector<at::Tensor> gates = (from_x + from_h).chunk(4, -1);
      const at::Tensor i = at::sigmoid(gates[0]), f = at::sigmoid(gates[1]), g = at::tanh(gates[2]),
                       o = at::sigmoid(gates[3]);
      const at::Tensor squashed = at::tanh(cell), slope = o * (1 - squashed * squashed);
      const at::Tensor cell_by_h = scaled(cell_before * f * (1 - f), rows(1)) +
                                   scaled(g * i * (1 - i), rows(0)) + scaled(i * (1 - g * g), rows(2));
      const at::Tensor h_by_h = scaled(squashed * o * (1 - o), rows(3)) + scaled(slope, cell_by_h);
      return at::cat(
          {at::cat({h_by_h, at::diag_embed(slope * f)}, -1), at::cat({cell_by_h, at::diag_embed(f)}, -1)},
          -2);
    }
    case RnnKind::kGru: {
      const std::vector<at::Tensor> gx = from_x.chunk(3, -1), gh = from_h.chunk(3, -1);
      const at::Tensor r = at::sigmoid(gx[0] + gh[0]), z = at::sigmoid(gx[1] + gh[1]),
                       n = at::tanh(gx[2] + r * gh[2]);
      const at::Tensor slope = (1 - z) * (1 - n * n);
      return at::diag_embed(z) + scaled((before - n) * z * (1 - z), rows(1)) + scaled(slope * r, rows(2)) +
             scaled(slope * gh[2] * r * (1 - r), rows(0));
    }
    case RnnKind::kTanh:
      return scaled(1 - after * after, rows(0));
    case RnnKind::kRelu:
      break;
  }
  return scaled((after > 0).to(x.scalar_type()), rows(0));
}

std::vector<MixerDescription> Rnn::Mixers() const {
  return {{std::string(RnnMixer(spec_.kind)), UnitKind::kLayer, 1, spec_.state(), 1, false,
           TransitionForm::kDense}};
}

// Step by step, each of which waits for the last.
double Rnn::ExtraOperations() const { return 1e5 + 100 * static_cast<double>(spec_.gates() * spec_.hidden); }

}  // namespace eigsvc
