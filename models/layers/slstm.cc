#include "models/layers/slstm.h"

#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/log_sigmoid.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/maximum.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/tanh.h"
#include "ATen/ops/zeros.h"
#include "ATen/ops/zeros_like.h"

namespace eigsvc {
namespace {

// [H,d,4·d] of R [4,H,d,d]: one product a head for all gates.
at::Tensor ByHead(const at::Tensor& recurrent) {
  return recurrent.permute({1, 3, 0, 2}).flatten(-2).contiguous();
}

// gates [N,4,H,d] + R h for h [N,H,d].
at::Tensor WithRecurrence(const at::Tensor& gates, const at::Tensor& by_head, const at::Tensor& h) {
  const at::Tensor products = at::matmul(h.transpose(0, 1), by_head);  // [H,N,4·d]
  return gates + products.unflatten(-1, {4, h.size(-1)}).permute({1, 2, 0, 3});
}

}  // namespace

SlstmOutput Slstm(const SlstmInput& input) {
  const int64_t batch = input.gates.size(0), steps = input.gates.size(1), heads = input.gates.size(3),
                size = input.gates.size(4);
  const bool fresh = !input.state.defined();
  const at::Tensor start = fresh ? at::zeros({4, batch, heads, size}, input.gates.options()) : input.state;
  const at::Tensor by_head = ByHead(input.recurrent);
  std::vector<at::Tensor> states = {start};
  states.reserve(steps + 1);
  at::Tensor h = start[0], c = start[1], n = start[2], m = start[3];
  const std::vector<at::Tensor> gates = input.gates.unbind(1);
  for (int64_t t = 0; t < steps; ++t) {
    const std::vector<at::Tensor> y = WithRecurrence(gates[t], by_head, h).unbind(1);  // each [B,H,d]
    const at::Tensor kept = at::log_sigmoid(y[1]) + m;
    m = fresh && t == 0 ? y[0] : at::maximum(kept, y[0]);  // a memory of nothing has no say
    const at::Tensor forget = at::exp((kept - m).clamp_max(0)), in = at::exp(y[0] - m);
    c = at::addcmul(forget * c, in, at::tanh(y[2]));
    n = at::addcmul(in, forget, n);
    h = at::sigmoid(y[3]) * c / n;
    states.push_back(at::stack({h, c, n, m}));
  }
  return {at::stack(states, 2)};
}

at::Tensor SlstmJacobian(const SlstmInput& input, const SlstmOutput& output, int64_t begin, int64_t steps) {
  const at::Tensor before = output.states.narrow(2, begin, steps),
                   after = output.states.narrow(2, begin + 1, steps);
  const std::vector<at::Tensor> y = WithRecurrence(input.gates.narrow(1, begin, steps).flatten(0, 1),
                                                   ByHead(input.recurrent), before[0].flatten(0, 1))
                                        .unflatten(0, {-1, steps})
                                        .unbind(2);  // [B,T,H,d]
  const at::Tensor c = after[1], n = after[2], m = after[3];
  const at::Tensor f = at::sigmoid(y[1]), z = at::tanh(y[2]), o = at::sigmoid(y[3]);
  const at::Tensor in = at::exp(y[0] - m);
  // What is left of the state before, in the new units, and how it changes with y_f. Only where there is
  // nothing left, at the start, could the exponent be positive.
  const at::Tensor kept = at::exp((at::log_sigmoid(y[1]) + before[3] - m).clamp_max(0)) * (1 - f);
  const at::Tensor by_forget_c = kept * before[1], by_forget_n = kept * before[2];
  // diag(x) R of a gate: rows scaled.
  const auto rows = [&](const at::Tensor& x, int gate) { return x.unsqueeze(-1) * input.recurrent[gate]; };
  const at::Tensor c_by_h = rows(by_forget_c, 1) + rows(in * z, 0) + rows(in * (1 - z * z), 2);
  const at::Tensor n_by_h = rows(by_forget_n, 1) + rows(in, 0);
  const at::Tensor h_by_c = o / n, h_by_n = -o * c / (n * n);
  const at::Tensor h_by_h =
      h_by_c.unsqueeze(-1) * c_by_h + h_by_n.unsqueeze(-1) * n_by_h + rows(c / n * o * (1 - o), 3);
  const at::Tensor diagonal = at::diag_embed(f), none = at::zeros_like(diagonal);
  return at::cat({at::cat({diagonal, none, c_by_h}, -1), at::cat({none, diagonal, n_by_h}, -1),
                  at::cat({at::diag_embed(h_by_c * f), at::diag_embed(h_by_n * f), h_by_h}, -1)},
                 -2);
}

}  // namespace eigsvc
