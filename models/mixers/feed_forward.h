// Position-wise networks as modules: the gated MLP of Llama and its kin, and the plain one of GPT-2 and its.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "models/mixers/module.h"

namespace eigsvc {

enum class Activation {
  kSilu,
  kGelu,
  kGeluTanh,
  kRelu,
  kReluSquared,
  kSigmoid,
  kTanh,
  kEluPlusOne,
  kIdentity
};

// transformers' names: silu, swish, gelu, gelu_new, gelu_pytorch_tanh, relu, relu2, sigmoid, tanh.
// FAILED_PRECONDITION otherwise, naming the setting.
absl::StatusOr<Activation> ActivationOf(absl::string_view setting, absl::string_view name);
at::Tensor Activate(Activation activation, const at::Tensor& x);

struct FeedForwardSpec {
  int64_t width = 0, hidden = 0;
  Activation activation = Activation::kSilu;
  bool bias = false;
  bool fused_gate = false;  // GatedFeedForward: gate_proj has the rows [gate | up], and there is no up_proj
  bool gate_last = false;   // the same with the rows [up | gate]
  double gate_scale = 1;    // of the gate, before its activation
  double dropout = 0;       // FeedForward only, behind the activation and behind down_proj
  bool weighed = false;     // GatedFeedForward: each step's output is times sigmoid(share(x)), a number
};

// down_proj(activation(gate_scale·gate_proj(x))·up_proj(x)).
class GatedFeedForward final : public Module {
 public:
  GatedFeedForward(std::string name, FeedForwardSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;

 private:
  at::Tensor Output(const LayerCall& call, const at::Tensor& x) const;
  at::Tensor Scaled(const at::Tensor& gate) const;

  const FeedForwardSpec spec_;
};

// down_proj(activation(up_proj(x))).
class FeedForward final : public Module {
 public:
  FeedForward(std::string name, FeedForwardSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;

 private:
  const FeedForwardSpec spec_;
};

// Its input: of layers that have a norm where others have a network.
class Identity final : public Module {
 public:
  explicit Identity(std::string name) : Module(std::move(name)) {}
  void Plan(const WeightPlanner&) const override {}
  absl::StatusOr<at::Tensor> Run(const LayerCall&, const at::Tensor& x) const override { return x.clone(); }
};

}  // namespace eigsvc
