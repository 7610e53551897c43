// The blocks that the models of arXiv 2510.09379 and their relatives are stacks of: whole layers as modules.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/feed_forward.h"
#include "models/mixers/module.h"
#include "models/mixers/normalization.h"
#include "models/mixers/normalized_attention.h"

namespace eigsvc {

// r = s·x + attention(norm(x)), y = r + network(norm(r)): the norm is one, used twice. Without a network
// y = norm(r), without the second skip. With a gate y is multiplied by silu(Wz x).
struct AttentionBlockSpec {
  int64_t width = 0;
  NormSpec norm;
  bool gated = false;
  bool scaled_skip = false;  // s is learned ("lambd"), else 1
  double dropout = 0;        // behind the attention
  double input_dropout = 0;  // of x: of the first block, behind the embedding
};

// Weights norm, Wz, lambd and those of its parts, which are named "attention." and "mixer.".
class AttentionBlock final : public Module {
 public:
  AttentionBlock(AttentionBlockSpec spec, std::unique_ptr<const NormalizedAttention> attention,
                 std::unique_ptr<const Module> network)
      : Module(""), spec_(spec), attention_(std::move(attention)), network_(std::move(network)) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override { return attention_->Mixers(); }
  double ExtraOperations() const override { return attention_->ExtraOperations(); }

 private:
  const AttentionBlockSpec spec_;
  const std::unique_ptr<const NormalizedAttention> attention_;
  const std::unique_ptr<const Module> network_;  // null: none
};

// x + output(activation(mixer(x))), with a norm before the mixer or behind the sum.
struct SsmBlockSpec {
  int64_t width = 0;
  NormSpec norm;
  bool prenorm = true;
  Activation activation = Activation::kGelu;
  enum class Output {
    kNone,       // z, the activation's output
    kGlu,        // a·σ(b) for [a | b] = glu.linear(z)
    kTwoLinear,  // out1(z)·σ(out2(z))
    kGate,       // z·σ(out2(z))
    kGateOnly,   // y·σ(out2(z)) for the mixer's output y
  };
  Output output = Output::kGlu;
  int64_t mixed_width = 0;  // of the mixer's output, with kGlu; 0: width
  bool output_is_conv =
      false;  // kGlu's weight is stored as a convolution of one tap, [2·width, mixed_width, 1]
  double mixer_dropout = 0;   // behind the mixer
  double dropout = 0;         // behind the activation and behind the output
  bool dropout_once = false;  // behind the activation alone
  bool tied_dropout = false;  // one mask for all steps of a row
};

// Weights norm, those of the mixer, and glu.linear, out1, out2 (.weight, .bias).
class SsmBlock final : public Module {
 public:
  SsmBlock(SsmBlockSpec spec, std::unique_ptr<const Module> mixer)
      : Module(""), spec_(spec), mixer_(std::move(mixer)) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override { return mixer_->Mixers(); }
  double ExtraOperations() const override { return mixer_->ExtraOperations(); }

 private:
  at::Tensor Output(const LayerCall& call, const at::Tensor& y) const;

  const SsmBlockSpec spec_;
  const std::unique_ptr<const Module> mixer_;
};

}  // namespace eigsvc
