// The position-wise networks of arXiv 2510.09379 that end in a gated linear unit.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "models/mixers/module.h"

namespace eigsvc {

// a·σ(b) for [a | b] = linear(x).
class GatedLinearUnit final : public Module {
 public:
  GatedLinearUnit(std::string name, int64_t width) : Module(std::move(name)), width_(width) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;

 private:
  const int64_t width_;
};

// σ(α)·a·σ(b) + (1 - σ(α))·decoder(gelu(h)) for h = [a | b] = encoder(x): a learned mixture of a gated linear
// unit and an MLP.
class MixedUnit final : public Module {
 public:
  MixedUnit(std::string name, int64_t width, double dropout)
      : Module(std::move(name)), width_(width), dropout_(dropout) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;

 private:
  const int64_t width_;
  const double dropout_;
};

}  // namespace eigsvc
