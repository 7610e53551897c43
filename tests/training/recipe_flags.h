// A recipe's flags as a training's options: what the client and the worker make of them between them.
#pragma once

#include "models/base/settings.h"
#include "models/training/training.h"

namespace eigsvc::testing {

// REQUIRES: flags of the right types.
inline TrainingOptions OptionsOf(const Settings& flags) {
  TrainingOptions options;
  options.steps = flags.IntOr("steps", options.steps).value();
  options.batch_size = flags.IntOr("batch_size", options.batch_size).value();
  options.learning_rate = flags.RealOr("learning_rate", options.learning_rate).value();
  options.final_learning_rate = flags.RealOr("final_learning_rate", 0).value();
  options.warmup_steps = flags.IntOr("warmup_steps", 0).value();
  options.weight_decay = flags.RealOr("weight_decay", options.weight_decay).value();
  options.recurrence_learning_rate = flags.RealOr("recurrence_learning_rate", 0).value();
  options.decay_recurrence = flags.BoolOr("decay_recurrence", false).value();
  options.beta2 = flags.RealOr("beta2", options.beta2).value();
  options.gradient_clip = flags.RealOr("gradient_clip", options.gradient_clip).value();
  options.eval_every = flags.IntOr("eval_every", options.eval_every).value();
  options.eval_examples = flags.IntOr("eval_examples", options.eval_examples).value();
  options.stop_at_score = flags.RealOr("stop_at_score", 0).value();
  options.seed = static_cast<uint64_t>(flags.IntOr("seed", 0).value());
  return options;
}

}  // namespace eigsvc::testing
