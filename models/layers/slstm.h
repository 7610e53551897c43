// xLSTM's scalar memory (arXiv 2405.04517, section 2.2), whose gates read the last output: a recurrence that
// is truly non-linear, one step after the other, and its Jacobians.
#pragma once

#include "ATen/core/Tensor.h"

namespace eigsvc {

// With y = gates_t + R h_{t-1}: i = e^{y_i}, f = σ(y_f), z = tanh(y_z), o = σ(y_o),
// c_t = f c_{t-1} + i z, n_t = f n_{t-1} + i, h_t = o c_t/n_t. c and n are held in units e^m with
// m_t = max(log f_t + m_{t-1}, y_i).
struct SlstmInput {
  at::Tensor gates;      // [B,T,4,H,d] in the order i, f, z, o, with their biases
  at::Tensor recurrent;  // [4,H,d,d], rows out
  at::Tensor state;      // [4,B,H,d]: h, c, n, m; undefined at the start: zeros
};

struct SlstmOutput {
  at::Tensor states;  // [4,B,T+1,H,d]: h, c, n, m before the first step and behind each
};

// All of one dtype, float32 or float64.
SlstmOutput Slstm(const SlstmInput& input);

// ∂(c_t,n_t,h_t)/∂(c_{t-1},n_{t-1},h_{t-1}) of each head, [B,T,H,3d,3d], c and n in units e^{m_t}: a change
// of units between which lie the similar matrices of true units. Steps begin..begin+steps of what Slstm
// returned.
at::Tensor SlstmJacobian(const SlstmInput& input, const SlstmOutput& output, int64_t begin, int64_t steps);

}  // namespace eigsvc
