// LlamaConfig: the settings of a Llama in Meta's or Hugging Face's names, with the shapes of a checkpoint
// where those say more, and back.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "models/archive/archive.h"
#include "models/archive/detect.h"
#include "models/base/settings.h"
#include "models/layers/rope.h"

namespace eigsvc {

struct LlamaConfig {
  std::string layout;  // "meta" or "huggingface"
  int64_t layers = 0, width = 0, vocab_size = 0;
  int64_t heads = 0, groups = 0, head_size = 0;
  int64_t mlp_width = 0;
  double norm_eps = 0;
  double rotary_base = 10000;
  RotaryScaling scaling;
  bool attention_bias = false, mlp_bias = false;
  bool tied = false;
  int64_t trained_positions = 0;  // kept for saving; rotary embeddings have no limit
  double draw_deviation = 0.02;   // of fresh weights

  Settings ToSettings() const;
};

// FAILED_PRECONDITION: a setting is missing that shapes do not tell (the number of heads), or a variant this
// family does not run (the message names it).
// A setting that contradicts the weights is FAILED_PRECONDITION, too; INVALID_ARGUMENT: an unknown one that
// the caller typed.
absl::StatusOr<LlamaConfig> LlamaConfigOf(const Archive& archive, const Detection& detection);
// Missing settings take the defaults of a small model. INVALID_ARGUMENT for unknown or inconsistent ones.
absl::StatusOr<LlamaConfig> LlamaConfigOf(const Settings& settings);

}  // namespace eigsvc
