// Griffin's recurrent block (arXiv 2402.19427): a gated branch times a short convolution and the RG-LRU,
// h_t = a_t·h_{t-1} + √(1-a_t²)·(σ(gate)·x)_t, log a = -8·σ(gate)·softplus(Λ), a channel each; and its MLP as
// its authors store it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/feed_forward.h"
#include "models/mixers/module.h"

namespace eigsvc {

struct GriffinSpec {
  int64_t width = 0;     // D
  int64_t channels = 0;  // of the recurrence
  int64_t blocks = 0;    // of the gates' block-diagonal matrices
  int64_t taps = 0;      // of the convolution
  Activation activation = Activation::kGeluTanh;
  bool time_first = false;  // the convolution is stored as [taps, channels]
  int64_t depth = 1;        // layers of the model: a fresh output projection shrinks with it
};

inline constexpr absl::string_view kRgLruMixer = "rg-lru";

// Weights linear_{x,y,out}.{weight,bias}, conv_1d.{weight,bias}, rg_lru.{recurrent_param,
// {input,recurrent}_gate_{weight,bias}}. The gates multiply from the right: x·W.
class GriffinBlock final : public Module {
 public:
  GriffinBlock(std::string name, GriffinSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override { return 150 * static_cast<double>(spec_.channels); }

 private:
  at::Tensor Convolved(const LayerCall& call, const at::Tensor& x) const;
  at::Tensor Gate(const LayerCall& call, const std::string& name, const at::Tensor& x) const;
  absl::StatusOr<at::Tensor> Recurrence(const LayerCall& call, const at::Tensor& x, double noise_floor) const;

  const GriffinSpec spec_;
};

// down_proj(activation(x·up[0] + up_bias[0])·(x·up[1] + up_bias[1])): weights up [2,D,hidden],
// up_bias [2,1,1,hidden], down_proj.{weight,bias}.
class GriffinMlp final : public Module {
 public:
  GriffinMlp(std::string name, FeedForwardSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;

 private:
  const FeedForwardSpec spec_;
};

}  // namespace eigsvc
