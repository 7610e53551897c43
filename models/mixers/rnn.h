// The recurrent networks of torch.nn: LSTM (with the gates i, f, g, o), GRU (r, z, n, with the reset behind
// the matrix) and the plain RNN. Their recurrence is not linear: the transition of a step is the Jacobian of
// its state with respect to the last one, on the trajectory.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/module.h"

namespace eigsvc {

enum class RnnKind { kLstm, kGru, kTanh, kRelu };

struct RnnSpec {
  RnnKind kind = RnnKind::kLstm;
  int64_t input = 0, hidden = 0;
  bool bias = true;

  int64_t gates() const { return kind == RnnKind::kLstm ? 4 : kind == RnnKind::kGru ? 3 : 1; }
  int64_t state() const { return kind == RnnKind::kLstm ? 2 * hidden : hidden; }  // (h, c) or h
};

// "lstm", "gru" or "rnn".
absl::string_view RnnMixer(RnnKind kind);

// Weights weight_ih [gates·hidden,input], weight_hh [gates·hidden,hidden], bias_ih, bias_hh.
class Rnn final : public Module {
 public:
  Rnn(std::string name, RnnSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  // Of steps of which x is the input, h before and after: [B,t,state,state].
  at::Tensor Jacobians(const LayerCall& call, const at::Tensor& x, const at::Tensor& before,
                       const at::Tensor& after, const at::Tensor& cell_before, const at::Tensor& cell) const;
  absl::Status Report(const LayerCall& call, const at::Tensor& x, const at::Tensor& first_h,
                      const at::Tensor& first_cell, const at::Tensor& h) const;
  at::Tensor Part(const LayerCall& call, const char* rest, int64_t gate, at::ScalarType type) const;
  // The gates' inputs: the four of x and of h together, or of h alone.
  at::Tensor Affine(const LayerCall& call, const char* weight, const char* bias, const at::Tensor& x) const;

  const RnnSpec spec_;
};

}  // namespace eigsvc
