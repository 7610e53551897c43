// minGRU and minLSTM (arXiv 2410.01201): gates that see the input alone, so that the recurrence is linear.
// minGRU: h_t = (1-z_t)·h_{t-1} + z_t·g(h̃_t). minLSTM: h_t = f'_t·h_{t-1} + i'_t·g(h̃_t), f' = f/(f+i),
// i' = i/(f+i). g(x) = x + 0.5 for x >= 0, σ(x) below.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/module.h"

namespace eigsvc {

struct MinRnnSpec {
  int64_t width = 0;     // D
  int64_t channels = 0;  // of the recurrence
  bool lstm = false;
  bool output_projection = false;  // channels -> D; else they are equal
};

inline constexpr absl::string_view kMinGruMixer = "min-gru", kMinLstmMixer = "min-lstm";

// Weights to_hidden_and_gate.weight [2·channels,D], or to_hidden_and_f_i_gate.weight [3·channels,D], and
// to_out.weight.
class MinRnn final : public Module {
 public:
  MinRnn(std::string name, MinRnnSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override { return 150 * static_cast<double>(spec_.channels); }

 private:
  absl::string_view mixer() const { return spec_.lstm ? kMinLstmMixer : kMinGruMixer; }
  std::string projection() const { return spec_.lstm ? "to_hidden_and_f_i_gate" : "to_hidden_and_gate"; }

  const MinRnnSpec spec_;
};

// A causal depthwise convolution and a mixing of its channels: weights net.{0,1}.{weight,bias}. A finite
// memory of taps - 1 steps, which is no state that decays: it reports nothing.
class SeparableConvolution final : public Module {
 public:
  SeparableConvolution(std::string name, int64_t width, int64_t taps)
      : Module(std::move(name)), width_(width), taps_(taps) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;

 private:
  const int64_t width_, taps_;
};

}  // namespace eigsvc
