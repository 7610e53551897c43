// What the softmax attention families share: the walk over a layer in pieces, the cache of keys and values,
// and the report of log λ_i = LSE_{i-1} - LSE_i to the tap.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "models/zoo/sequence_model.h"

namespace eigsvc {

struct AttentionShape {
  int64_t heads = 0;       // of queries
  int64_t groups = 0;      // of keys and values; heads of a group share them
  int64_t key_size = 0;    // a head's, of q and k
  int64_t value_size = 0;  // a head's, of v
};

// [B,T,H,d] each; k and v with the groups' number of heads.
struct AttentionHeads {
  at::Tensor q, k, v;
};

class AttentionModel : public SequenceModel {
 protected:
  AttentionModel(ModelDescription description, WeightPlan plan, ModelWeights weights, at::ScalarType dtype)
      : SequenceModel(std::move(description), std::move(plan), std::move(weights), dtype) {}

 private:
  // x [B,T,D], row t at position first + t. `state` holds what else the projections carry over time (a
  // convolution's tail); pieces come in order.
  virtual AttentionHeads Project(const Weights& weights, const at::Tensor& x, int64_t first,
                                 LayerState& state) const = 0;
  // Scores are Scale(index)·⟨q,k⟩.
  virtual double Scale(int index) const = 0;
  // The rest of the layer: x [B,T,D] and what its heads attended to [B,T,H·Dv] -> [B,T,D].
  virtual at::Tensor Finish(const Weights& weights, const at::Tensor& x,
                            const at::Tensor& attended) const = 0;

  absl::StatusOr<at::Tensor> DoLayer(int index, const Weights& weights, const at::Tensor& x,
                                     LayerState& state, const LayerContext& context) const final;
};

// The parts of a description that follow from the shape.
void DescribeAttention(const AttentionShape& shape, int64_t layers, ModelDescription& description);

}  // namespace eigsvc
