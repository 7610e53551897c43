// Module: a piece of a layer with weights of its own. Those that move information over time are mixers and
// report their own transition to the tap; the others (MLPs) are position-wise. Start here to add one.
// Shapes: B batch, T steps of the chunk, D width.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Generator.h"
#include "ATen/core/Tensor.h"
#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "models/base/convention.h"
#include "models/base/stop_token.h"
#include "models/mixers/weights.h"
#include "models/transition/tap.h"

namespace eigsvc {

// What a layer carries between chunks of time: key/value caches, convolution tails, SSM states, the last
// log-sum-exp. A fresh one starts a sequence. Names start with the module's.
struct LayerState {
  int64_t position = 0;  // steps seen so far; the model advances it, not the module
  // Steps of the whole sequence, which some positions depend on: set by callers that run it in chunks and
  // know it; the model raises it to the end of each call.
  int64_t length = 0;
  absl::btree_map<std::string, at::Tensor> tensors;
};

// What only training does: dropout, and batch normalisation by the batch's own statistics, whose running
// means it moves. Thread rule: one thread.
struct TrainingMode {
  at::Generator generator;  // of dropout's masks
};

struct LayerContext {
  TransitionTap* tap = nullptr;
  const StopToken* stop = nullptr;  // checked inside long layers, at least every 100 ms of work
  // Of what is reported, resolved against ModelDescription::conventions; kDefault is as the model's own.
  Convention convention;
  TrainingMode* training = nullptr;  // null: the model runs as it is used
};

// What is known of a mixer without running it.
struct MixerDescription {
  std::string mixer;  // "mamba2", "attention"; unique within a layer
  UnitKind unit_kind = UnitKind::kHead;
  int64_t units = 0;
  int64_t eigenvalues_per_unit = 1;  // stored per unit and step
  int64_t multiplicity = 1;          // of each; 0: infinite
  bool constant = false;             // the same at every step: reported once with T = 1 and B = 1
  TransitionForm form = TransitionForm::kScalar;
  // Steps that a softmax sees; what leaves the window is an input with as much delay, not part of Λ. 0: all.
  int64_t window = 0;
};

// One call of a layer, as its modules see it.
struct LayerCall {
  int layer = 0;
  const Weights& weights;
  LayerState& state;
  const LayerContext& context;
  // [B,T,*]: what an earlier layer hands on to later ones beside x, at the same steps (RWKV-7: the first
  // layer's values). Undefined where none does; a module may replace it.
  at::Tensor& beside;

  bool Wants(absl::string_view mixer) const {
    return context.tap != nullptr && context.tap->Wants(layer, mixer);
  }
  // The same of a transition that never changes: it is reported with a sequence's first step.
  bool WantsConstant(absl::string_view mixer) const { return state.position == 0 && Wants(mixer); }
  // Whether what is reported is that of the analysis released with arXiv 2510.09379: the block then calls
  // ReportDeparting, and Run reports nothing that changes from step to step.
  bool departs() const { return context.convention.departures.Any(); }
  absl::Status Report(absl::string_view mixer, UnitKind unit_kind, Transition transition) const {
    return context.tap->OnTransition(layer, mixer, unit_kind, std::move(transition));
  }
};

class Module {
 public:
  // `name` starts the canonical names of its weights and of what it keeps in the state: "self_attn.".
  explicit Module(std::string name) : name_(std::move(name)) {}
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  virtual void Plan(const WeightPlanner& planner) const = 0;
  // x [B,T,D], normed where the family norms -> [B,T,D], a tensor of the caller's own: no view of x, a weight
  // or the state. Safe for concurrent use on different states, autograd-compatible, throws like LibTorch. A
  // mixer asks call.Wants before it forms a transition.
  virtual absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const = 0;
  // Of the mixers that PAPER_COMPAT asks for another transition than their own: reports that of projecting x
  // [B,T,D], which E1 and E2 choose, by the departures that concern the mixer. Called in place of Run's
  // report, once for each chunk.
  virtual absl::Status ReportDeparting(const LayerCall&, const at::Tensor&) const { return absl::OkStatus(); }
  // What it reports: nothing for a position-wise module.
  virtual std::vector<MixerDescription> Mixers() const { return {}; }
  // Operations of one step of one sequence beyond two a weight, for cutting long inputs into pieces.
  virtual double ExtraOperations() const { return 0; }

 protected:
  const std::string& name() const { return name_; }
  std::string Name(absl::string_view rest) const { return name_ + std::string(rest); }
  bool HasWeight(const LayerCall& call, absl::string_view rest) const { return call.weights.Has(Name(rest)); }
  const at::Tensor& Weight(const LayerCall& call, absl::string_view rest) const {
    return call.weights[Name(rest)];
  }
  // Undefined where there is none.
  at::Tensor WeightOrNone(const LayerCall& call, absl::string_view rest) const {
    return HasWeight(call, rest) ? Weight(call, rest) : at::Tensor();
  }
  // x·Wᵀ + b of "REST.weight" and, where there is one, "REST.bias".
  at::Tensor Linear(const LayerCall& call, absl::string_view rest, const at::Tensor& x) const;
  // x behind dropout in training, x itself otherwise. `tied`: one mask for all steps of a row.
  at::Tensor Dropped(const LayerCall& call, const at::Tensor& x, double probability, bool tied = false) const;
  // What the state keeps under this module's name; undefined at the start of a sequence. Valid until another
  // entry is asked for.
  at::Tensor& State(const LayerCall& call, absl::string_view rest) const {
    return call.state.tensors[Name(rest)];
  }

 private:
  const std::string name_;
};

}  // namespace eigsvc
