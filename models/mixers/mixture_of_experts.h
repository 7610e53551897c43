// A mixture of experts: a router chooses a few networks for each step and weighs what they say
// (arXiv 2401.04088, 2403.19887). Experts that every step goes through are a network of their own beside it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "models/mixers/feed_forward.h"
#include "models/mixers/module.h"

namespace eigsvc {

struct MixtureOfExpertsSpec {
  int64_t experts = 0;
  int64_t chosen = 0;  // of each step
  FeedForwardSpec expert;
  bool gated = true;     // an expert is a GatedFeedForward; false: a FeedForward
  bool stacked = false;  // the experts' projections lie in one tensor each, and a gate's above the other's

  // The weights of the chosen: their share of the softmax over all experts or, `renormalised`, over
  // themselves; or the sigmoids of their scores.
  enum class Score { kSoftmax, kSigmoid };
  Score score = Score::kSoftmax;
  bool renormalised = false;  // they sum to one
  double sum_eps = 1e-20;     // beside the sum of sigmoids that they are then divided by
  double scale = 1;           // of the weights
  bool correction = false;    // a bias that moves the choice and not the weights (arXiv 2408.15664)
  // Experts lie in groups of which only the best may be chosen from, each judged by its two best experts.
  int64_t groups = 1, chosen_groups = 1;

  // INVALID_ARGUMENT with what does not go together.
  absl::Status Check() const;
};

// Weights router.weight [E,D], router.correction [E] and, of each expert e, experts.e.{gate,up,down}_proj; or
// stacked, experts.input [E,2·hidden,D] and experts.output [E,D,hidden].
class MixtureOfExperts final : public Module {
 public:
  // REQUIRES spec.Check() is OK.
  MixtureOfExperts(std::string name, MixtureOfExpertsSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;

 private:
  struct Choice {
    at::Tensor expert, weight;  // [n,chosen]
  };
  Choice Route(const LayerCall& call, const at::Tensor& steps) const;
  at::Tensor RunExpert(const LayerCall& call, int64_t expert, const at::Tensor& x) const;

  const MixtureOfExpertsSpec spec_;
};

}  // namespace eigsvc
