// What every Mamba-2 layout shares (arXiv 2405.21060): the selective SSM with one decay per head, how it is
// reported to the tap, and the walk over a layer in segments of time.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>

#include "models/zoo/sequence_model.h"

namespace eigsvc {

// State h [P,N] per head: h_t = λ_t·h_{t-1} + Δ_t·x_t ⊗ B_t, y_t = h_t C_t + D·x_t, λ_t = exp(Δ_t·A), A =
// -exp(A_log).
struct SsmShape {
  int64_t heads = 0;       // H
  int64_t head_width = 0;  // P
  int64_t groups = 1;      // G, heads of a group share B and C
  int64_t order = 0;       // N
  int64_t taps = 0;        // K of the short convolution over x, B and C; 0: none
  double dt_min = 0, dt_max = std::numeric_limits<double>::infinity();  // Δ is clamped after softplus

  int64_t inner() const { return heads * head_width; }
  int64_t conv_rows() const { return inner() + 2 * groups * order; }  // channels [x | B | C]
};

class Mamba2Model : public SequenceModel {
 protected:
  Mamba2Model(ModelDescription description, WeightPlan plan, ModelWeights weights, at::ScalarType dtype,
              SsmShape shape)
      : SequenceModel(std::move(description), std::move(plan), std::move(weights), dtype), shape_(shape) {}

  // The selective SSM over channels [x | B | C] before the convolution and Δ before its bias, in at least
  // float32. Uses conv1d.{weight,bias}, dt_bias, A_log, D and, where there are any, init_states. y [B,T,H·P].
  struct SsmOutput {
    at::Tensor y;
    at::Tensor log_decay;  // log λ [B,T,H]
  };
  SsmOutput RunSsm(const Weights& weights, const at::Tensor& xbc, const at::Tensor& dt_raw,
                   LayerState& state) const;

  const SsmShape& shape() const { return shape_; }

  // One segment of time of a layer. Advances `state`, except its position.
  struct SegmentOutput {
    at::Tensor x;
    at::Tensor log_decay;
  };

 private:
  virtual SegmentOutput Segment(const Weights& weights, const at::Tensor& x, LayerState& state) const = 0;

  absl::StatusOr<at::Tensor> DoLayer(int index, const Weights& weights, const at::Tensor& x,
                                     LayerState& state, const LayerContext& context) const final;
  int64_t SegmentSteps(const Weights& weights, const at::Tensor& x) const;

  const SsmShape shape_;
};

// The parts of a plan and a description that follow from the shape. `prefix` is before "A_log" in the keys.
void PlanSsm(const SsmShape& shape, int layer, const std::string& prefix, bool conv_bias, int64_t skip_size,
             WeightPlan& plan);
void DescribeSsm(const SsmShape& shape, int64_t layers, ModelDescription& description);

}  // namespace eigsvc
