// The settings of Llama's relatives: one reader, and a table entry for what each of them does differently.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/archive/archive.h"
#include "models/base/settings.h"
#include "models/layers/rope.h"
#include "models/mixers/attention.h"
#include "models/mixers/experts.h"
#include "models/mixers/feed_forward.h"
#include "models/mixers/normalization.h"

namespace eigsvc {

// A relative of Llama's. Defaults are Llama's; values are those of its public configuration class.
struct LlamaKin {
  absl::string_view family;  // and model_type
  absl::string_view summary, reference;
  absl::string_view layout = "huggingface";

  NormSpec::Kind norm = NormSpec::Kind::kRms;
  double norm_eps = 1e-6;
  enum class Norms { kBefore, kAfter, kBoth };  // of a sublayer
  Norms norms = Norms::kBefore;
  AttentionSpec::QkNorm qk_norm = AttentionSpec::QkNorm::kNone;

  bool attention_bias = true;  // attention_bias is read
  bool qkv_bias = false;       // q, k and v always have biases
  bool mlp_bias = false;       // mlp_bias is read
  absl::string_view activation = "hidden_act", default_activation = "silu";

  enum class Windows {
    kNone,
    kEveryLayer,   // sliding_window; null: none
    kUpperLayers,  // Qwen: from max_window_layers on, where use_sliding_window says so, or by layer_types
    kLayerTypes,   // by layer_types; without, every full_layer_period-th layer sees everything
  };
  Windows windows = Windows::kNone;
  int64_t default_window = 4096, full_layer_period = 0;  // 0: no layer

  double rotary_base = 10000;
  bool nested_rotary = false;  // parameters by layer type
  // JSON of the rotary parameters that a configuration without any means; empty: those above.
  absl::string_view silent_rotary;
  int64_t trained_positions = 2048;

  // Read where they are not 0; these are what a silent configuration means.
  double score_cap = 0, logits_cap = 0;  // attn_logit_softcapping, final_logit_softcapping
  double query_scalar = 0;               // query_pre_attn_scalar
  bool scaled_embedding = false;         // by √width
  bool multipliers = false;              // Granite's
  bool sinks = false, experts = false;   // gpt-oss's
  bool tied = false;
};

struct LlamaSettings {
  int64_t layers = 0, vocab_size = 0;
  AttentionSpec attention;  // without rotary and window
  RotarySpec rotary, window_rotary;
  std::vector<int64_t> windows;  // by layer; 0: none
  FeedForwardSpec mlp;
  ExpertsSpec experts;
  NormSpec norm;
  double embedding_scale = 1, residual_scale = 1, logits_scale = 1, logits_cap = 0;
  bool tied = false;
  double draw_deviation = 0.02;
  Settings resolved;
};

// `archive`: whose shapes decide what the settings leave open; null for a fresh model, whose missing settings
// take the defaults of a small one. `typed`: those of the settings that a user typed. FAILED_PRECONDITION: a
// missing setting that shapes do not tell (the number of heads), one that contradicts them, or a variant that
// is not run. INVALID_ARGUMENT: unknown typed or inconsistent settings.
absl::StatusOr<LlamaSettings> ReadLlama(const LlamaKin& kin, const Settings& settings, const Settings& typed,
                                        const std::string& layout, const Archive* archive, int64_t layers);

}  // namespace eigsvc
