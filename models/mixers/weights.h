// Weights by their canonical names, and WeightPlan: every tensor of a model: its canonical name, its key and
// shape in a checkpoint, and how it is drawn when fresh. One plan serves loading, initialising and saving, so
// the three cannot disagree.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/base/random.h"
#include "models/base/stop_token.h"

namespace eigsvc {

// Named tensors of one layer, or of what is outside the layers. Names are the family's canonical ones.
class Weights {
 public:
  // `trained`: gradients move it; false for statistics and constants that a checkpoint holds beside.
  void Set(absl::string_view name, at::Tensor tensor, bool trained = true);
  bool IsTrained(absl::string_view name) const { return !fixed_.contains(name); }
  bool Has(absl::string_view name) const;
  // REQUIRES Has(name): loading checked every name and shape.
  const at::Tensor& operator[](absl::string_view name) const;
  const absl::btree_map<std::string, at::Tensor>& all() const { return tensors_; }

 private:
  absl::btree_map<std::string, at::Tensor> tensors_;
  absl::btree_set<std::string> fixed_;
};

// Where layers come from that are not in memory. Safe for concurrent use.
class LayerSource {
 public:
  virtual ~LayerSource() = default;
  virtual absl::StatusOr<Weights> Load(int layer, const StopToken& stop) const = 0;
  // Whether a layer stays once it was loaded, and, if so, those that are here.
  virtual bool keeps() const { return false; }
  virtual std::optional<Weights> Kept(int /*layer*/) const { return std::nullopt; }
};

struct ModelWeights {
  Weights outer;                              // embedding, final norm, head
  std::vector<Weights> layers;                // empty ones where `source` has them
  std::shared_ptr<const LayerSource> source;  // null: everything is here
  // Whether a layer is gone once it has run.
  bool streamed() const { return source != nullptr && !source->keeps(); }
  // A layer's weights, loaded if they are not here.
  absl::StatusOr<Weights> Layer(int layer, const StopToken& stop = StopToken::Never()) const;
  // The same without a source, for which layers that are not here yet are loaded. REQUIRES not streamed.
  absl::StatusOr<ModelWeights> Whole(const StopToken& stop = StopToken::Never()) const;
  // Every trained tensor that is here once, for optimisers: tied ones are the same object.
  std::vector<at::Tensor> Distinct() const;
  // Own copies to train; tied tensors stay tied. Those that are not trained never require gradients. REQUIRES
  // no source.
  ModelWeights Clone(bool requires_grad) const;
  // Copies on another device, tied ones tied; shared with this where they lie there already. REQUIRES no
  // source.
  ModelWeights On(c10::Device device) const;
};

// One element of a fresh tensor.
using Draw = std::function<double(Random&)>;

// A whole fresh tensor, row-major: where its elements depend on each other, or on tensors of the same layer
// that the plan lists earlier.
using DrawTensor = std::function<void(Random&, const Weights& earlier, absl::Span<double> values)>;

Draw DrawConstant(double value);
Draw DrawNormal(double deviation);
Draw DrawUniform(double low, double high);
// torch.nn.Linear's and Conv1d's own default, kaiming_uniform(a = √5): uniform within ±1/√fan_in.
Draw DrawLinear(int64_t fan_in);
// Normal of deviation 1/√fan_in without what lies beyond two deviations of the normal it is cut from: flax's
// and JAX's lecun_normal.
Draw DrawLecunNormal(int64_t fan_in);
// The bias of a softplus whose value is to be log-uniform in [low, high]: of step sizes.
Draw DrawStepBias(double low, double high);
// Values that are a function of the row-major index.
DrawTensor DrawByIndex(std::function<double(int64_t)> value);

struct WeightSpec {
  int layer = kOuter;          // or kOuter: embedding, final norm, head
  std::string name;            // canonical, as the family's forward pass asks for it
  std::string key;             // in the checkpoint
  std::vector<int64_t> shape;  // as the forward pass uses it
  Draw draw;
  bool transposed = false;    // the checkpoint stores the transpose (GPT-2's Conv1D)
  bool keep_float32 = false;  // at least float32 whatever the model's dtype (decay rates, step sizes)
  // Canonical name of the tensor that this one is (tied embeddings, shared blocks), outside the layers or in
  // `tied_layer`, which the plan lists earlier. The key may be absent from a checkpoint and is not written.
  std::string tied_to;
  DrawTensor draw_tensor;  // instead of `draw`
  bool trained = true;     // false: a buffer, which gradients do not move
  bool decays = true;      // weight decay shrinks it where it is a matrix

  static constexpr int kOuter = -1;
  int tied_layer = kOuter;
  std::vector<int64_t> StoredShape() const;
  int64_t ElementCount() const;  // at most 2^40: settings may ask for any shape
  // What it is held as in a model of `dtype`.
  at::ScalarType DtypeIn(at::ScalarType dtype) const;
};

using WeightPlan = std::vector<WeightSpec>;

// Elements of a plan, tied ones once.
int64_t ParameterCount(const WeightPlan& plan);
// A layer's (or WeightSpec::kOuter) and a canonical name.
using WeightName = std::pair<int, std::string>;
// Those that others are tied to.
std::set<WeightName> SharedNames(const WeightPlan& plan);

// Bytes that the weights of a model in `dtype` take, tied ones once.
struct PlannedBytes {
  int64_t outer = 0;  // with what several layers share
  std::vector<int64_t> layers;
  int64_t All() const;
  int64_t Streamed() const;  // with the running layer and the next one here
};
PlannedBytes BytesOf(const WeightPlan& plan, at::ScalarType dtype);

// Pairs (canonical, stored): a name that starts with the first has the second in its place in a checkpoint.
// The longest match wins; without one, the name is stored as it is.
using KeyMap = std::vector<std::pair<std::string, std::string>>;

// How the projections of a layer are drawn and stored.
struct LinearStyle {
  Draw draw;                // null: as `defaults` says
  Draw residual_draw;       // of those whose output adds to the residual stream; null: `draw`
  bool transposed = false;  // stored as (in, out): GPT-2's Conv1D, flax's Dense
  enum class Defaults {
    kZeroBias,  // torch.nn.Linear's own weights, biases of zero
    kTorch,     // torch.nn.Linear's own
    kFlax,      // flax.linen.Dense's own: LeCun normal weights, biases of zero
  };
  Defaults defaults = Defaults::kZeroBias;
};

// Adds the weights of one layer (or of the outside) to a plan. A name's key is the prefix and the name, or
// what `keys` has for it.
class WeightPlanner {
 public:
  // `keys` must outlive the planner.
  WeightPlanner(WeightPlan& plan, int layer, std::string key_prefix, const KeyMap& keys, LinearStyle style)
      : plan_(plan),
        layer_(layer),
        key_prefix_(std::move(key_prefix)),
        keys_(keys),
        style_(std::move(style)) {}
  WeightPlanner(WeightPlan& plan, int layer, std::string key_prefix, const KeyMap& keys, Draw draw = nullptr)
      : WeightPlanner(plan, layer, std::move(key_prefix), keys, LinearStyle{std::move(draw), nullptr}) {}

  // The added entry, for what else it needs; valid until the next call.
  WeightSpec& Add(const std::string& name, std::vector<int64_t> shape, Draw draw) const;
  // "NAME.weight" [out,in] and, with bias, "NAME.bias" [out].
  void Linear(const std::string& name, int64_t out, int64_t in, bool bias) const;
  // "NAME" [count,out,in]: so many of them in one tensor.
  void Stack(const std::string& name, int64_t count, int64_t out, int64_t in) const;
  // The same for a projection onto the residual stream.
  void ResidualLinear(const std::string& name, int64_t out, int64_t in, bool bias) const;
  int layer() const { return layer_; }

 private:
  void AddLinear(const std::string& name, int64_t out, int64_t in, bool bias, const Draw& draw) const;

  WeightPlan& plan_;
  const int layer_;
  const std::string key_prefix_;
  const KeyMap& keys_;
  const LinearStyle style_;
};

// `pattern` may hold any number of '*', each standing for any text.
bool MatchesPattern(const std::string& text, const std::string& pattern);

}  // namespace eigsvc
