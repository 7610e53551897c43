// A mixture of experts as gpt-oss defines it (its model card and reference implementation): a router picks
// the best few experts of each step and weights them by the softmax of their scores alone; an expert is a
// clamped SwiGLU, (clamp(u) + 1)·g·σ(α·g) with g = min(gate, limit).
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "models/mixers/module.h"

namespace eigsvc {

struct ExpertsSpec {
  int64_t width = 0, hidden = 0;
  int64_t experts = 0, active = 0;  // of each step
  double alpha = 1.702, limit = 7;
};

// Weights router.{weight,bias}, experts.gate_up_proj [E,D,2·hidden] with gate and up columns in turn,
// experts.down_proj [E,hidden,D], and their biases …_bias [E,·].
class Experts final : public Module {
 public:
  Experts(std::string name, ExpertsSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;

 private:
  at::Tensor RunExpert(const LayerCall& call, int64_t expert, const at::Tensor& x) const;

  const ExpertsSpec spec_;
};

}  // namespace eigsvc
