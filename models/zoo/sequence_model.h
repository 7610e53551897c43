// SequenceModel: a family's forward pass over a checkpoint, driven layer by layer. Start here to add a model.
// The engine (models/analysis) owns the loop over layers and chunks; training (models/training) runs the same
// code on cloned weights with gradients. Shapes: B batch, T steps of the chunk, D width, V vocabulary.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "models/base/convention.h"
#include "models/base/settings.h"
#include "models/mixers/module.h"
#include "models/mixers/weights.h"

namespace eigsvc {

// What is known of a model without running it.
struct ModelDescription {
  std::string family, layout;
  int64_t layers = 0, width = 0, parameters = 0;
  int64_t vocab_size = 0;  // token ids lie below it; 0: it takes no tokens
  int64_t channels = 0;    // real numbers a step that it takes in place of tokens; 0: none
  int64_t classes = 0;     // logits of an answer; filled in with vocab_size where 0
  // How a sequence becomes one answer ("mean", ...); empty: it answers at every step.
  std::string pooling;
  int64_t max_positions = 0;  // longest sequence it can run; 0: no limit
  // By layer: what moves information over time there. None where a layer is position-wise, two where mixers
  // run side by side.
  std::vector<std::vector<MixerDescription>> mixers;
  // Of the transitions it reports. A model of several mixers has gauge dsf where one of them divides by a
  // normaliser; it changes nothing in the others.
  ConventionSupport conventions;
  Settings settings;  // canonical settings: enough to build the same architecture again
};

// Steps of x [B,T,D] that make a piece of work of well under 100 ms on two cores, or on a GPU; at least 64,
// so that a matrix product is not bound by reading its weights.
int64_t PieceSteps(double operations_per_step, const at::Tensor& x);

class SequenceModel {
 public:
  virtual ~SequenceModel() = default;
  const ModelDescription& description() const { return description_; }
  const ModelWeights& weights() const { return weights_; }
  const WeightPlan& plan() const { return plan_; }
  // Of the weights; decay rates and the like may be wider.
  at::ScalarType dtype() const { return dtype_; }

  // Each is safe for concurrent use and autograd-compatible, and turns LibTorch's exceptions into statuses.
  // Tokens [B,T] int64, already checked against vocab_size, or real numbers [B,T,channels] -> x [B,T,D].
  absl::StatusOr<at::Tensor> Embed(const ModelWeights& weights, const at::Tensor& inputs,
                                   int64_t first_position) const;
  // x [B,T,D] -> [B,T,D], or wider where a layer hands on more than x. `state` may be null: the chunk is the
  // whole sequence. Long chunks are cut into pieces here, with the state carried exactly from one to the
  // next, so that no family has to.
  absl::StatusOr<at::Tensor> Layer(int index, const Weights& weights, const at::Tensor& x, LayerState* state,
                                   const LayerContext& context) const;
  // What stands for a whole sequence: x [B,T,D] -> [B,1,D], from the first lengths[b] steps of row b (int64
  // [B]). By the model's pooling; one that has none answers at the last of them.
  absl::StatusOr<at::Tensor> Pool(const ModelWeights& weights, const at::Tensor& x,
                                  const at::Tensor& lengths) const;
  // x [B,T,D] -> logits [B,T,classes]; of a model that pools, x is what Pool gave.
  absl::StatusOr<at::Tensor> Head(const ModelWeights& weights, const at::Tensor& x) const;

  // All of it over whole sequences: what tests and training call. Inputs as Embed takes them -> logits
  // [B,T,classes], or [B,1,classes] of a model that pools.
  absl::StatusOr<at::Tensor> Forward(const ModelWeights& weights, const at::Tensor& inputs,
                                     const LayerContext& context = {}) const;

 protected:
  // Counts the description's parameters. `weights` fill `plan`, as far as LoadOptions::residency has them
  // held: a family reads them in its forward pass only.
  SequenceModel(ModelDescription description, WeightPlan plan, ModelWeights weights, at::ScalarType dtype);
  // The default takes the last step.
  virtual at::Tensor DoPool(const ModelWeights& weights, const at::Tensor& x,
                            const at::Tensor& lengths) const;

 private:
  virtual at::Tensor DoEmbed(const ModelWeights& weights, const at::Tensor& inputs,
                             int64_t first_position) const = 0;
  virtual absl::StatusOr<at::Tensor> DoLayer(int index, const Weights& weights, const at::Tensor& x,
                                             LayerState& state, const LayerContext& context) const = 0;
  // Steps of x that DoLayer is given at a time, so that the stop token is looked at every 100 ms and an
  // activation's memory is bounded; asked where there is a stop token. The default is all of them.
  virtual int64_t StepsPerPiece(const Weights& weights, const at::Tensor& x) const;
  virtual at::Tensor DoHead(const ModelWeights& weights, const at::Tensor& x) const = 0;

  ModelDescription description_;
  const WeightPlan plan_;
  const ModelWeights weights_;
  const at::ScalarType dtype_;
};

}  // namespace eigsvc
