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
#include "models/base/settings.h"
#include "models/base/stop_token.h"
#include "models/transition/tap.h"
#include "models/zoo/weight_plan.h"

namespace eigsvc {

// Named tensors of one layer, or of what is outside the layers. Names are the family's canonical ones.
class Weights {
 public:
  void Set(absl::string_view name, at::Tensor tensor);
  bool Has(absl::string_view name) const;
  // REQUIRES Has(name): loading checked every name and shape.
  const at::Tensor& operator[](absl::string_view name) const;
  const absl::btree_map<std::string, at::Tensor>& all() const { return tensors_; }

 private:
  absl::btree_map<std::string, at::Tensor> tensors_;
};

struct ModelWeights {
  Weights outer;  // embedding, final norm, head
  std::vector<Weights> layers;
  // Every tensor once, for optimisers: tied ones are the same object.
  std::vector<at::Tensor> Distinct() const;
  // Own copies to train; tied tensors stay tied.
  ModelWeights Clone(bool requires_grad) const;
};

// What a layer carries between chunks of time: key/value caches, convolution tails, SSM states, the last
// log-sum-exp. A fresh one starts a sequence.
struct LayerState {
  int64_t position = 0;  // steps seen so far
  absl::btree_map<std::string, at::Tensor> tensors;
};

struct LayerContext {
  TransitionTap* tap = nullptr;
  const StopToken* stop = nullptr;  // checked inside long layers, at least every 100 ms of work
};

// What is known of a model without running it.
struct ModelDescription {
  std::string family, layout;
  int64_t layers = 0, width = 0, vocab_size = 0, parameters = 0;
  int64_t max_positions = 0;  // longest sequence it can run; 0: no limit
  struct LayerDescription {
    std::string mixer;  // "mamba2", "attention"
    UnitKind unit_kind = UnitKind::kHead;
    int64_t units = 0;
    int64_t eigenvalues_per_unit = 1;  // stored per unit and step
    int64_t multiplicity = 1;          // of each; 0: infinite
  };
  std::vector<LayerDescription> layer_descriptions;
  std::string gauge;            // "dsf" (normaliser in the state) or "raw"
  std::string rotation = "io";  // rotary embeddings live in q and k
  Settings settings;            // canonical settings: enough to build the same architecture again
};

class SequenceModel {
 public:
  virtual ~SequenceModel() = default;
  const ModelDescription& description() const { return description_; }
  const ModelWeights& weights() const { return weights_; }
  const WeightPlan& plan() const { return plan_; }
  // Of the weights; decay rates and the like may be wider.
  at::ScalarType dtype() const { return dtype_; }

  // Each is safe for concurrent use and autograd-compatible, and turns LibTorch's exceptions into statuses.
  // tokens [B,T] int64 already checked against vocab_size -> x [B,T,D].
  absl::StatusOr<at::Tensor> Embed(const ModelWeights& weights, const at::Tensor& tokens,
                                   int64_t first_position) const;
  // x [B,T,D] -> [B,T,D]. `state` may be null: the chunk is the whole sequence.
  absl::StatusOr<at::Tensor> Layer(int index, const Weights& weights, const at::Tensor& x, LayerState* state,
                                   const LayerContext& context) const;
  // x [B,T,D] -> logits [B,T,V].
  absl::StatusOr<at::Tensor> Head(const ModelWeights& weights, const at::Tensor& x) const;

  // All of it over whole sequences: what tests and training call. tokens [B,T] -> logits [B,T,V].
  absl::StatusOr<at::Tensor> Forward(const ModelWeights& weights, const at::Tensor& tokens,
                                     const LayerContext& context = {}) const;

 protected:
  // Counts the description's parameters. `weights` fill `plan`.
  SequenceModel(ModelDescription description, WeightPlan plan, ModelWeights weights, at::ScalarType dtype);

 private:
  virtual at::Tensor DoEmbed(const ModelWeights& weights, const at::Tensor& tokens,
                             int64_t first_position) const = 0;
  virtual absl::StatusOr<at::Tensor> DoLayer(int index, const Weights& weights, const at::Tensor& x,
                                             LayerState* state, const LayerContext& context) const = 0;
  virtual at::Tensor DoHead(const ModelWeights& weights, const at::Tensor& x) const = 0;

  ModelDescription description_;
  const WeightPlan plan_;
  const ModelWeights weights_;
  const at::ScalarType dtype_;
};

}  // namespace eigsvc
