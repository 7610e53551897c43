// Decoder: embedding, layers of sublayers on a residual stream, a final norm and a head. Nearly every
// published language model is one; a family of this shape is a function from its settings to a DecoderSpec.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/archive/archive.h"
#include "models/mixers/module.h"
#include "models/mixers/normalization.h"
#include "models/zoo/registry.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc {

// output_scale·module(input_scale·norm(x)).
struct Branch {
  std::unique_ptr<const Module> module;
  std::string norm;  // canonical name of the norm before it; empty: none
  double input_scale = 1, output_scale = 1;
  bool takes_embedding = false;  // the module is given [norm(x) | embedding]; needs carries_embedding
};

// output_scale·(x + post_norm(sum of the branches)): one branch usually, two where mixers run side by side.
struct Sublayer {
  std::vector<Branch> branches;
  std::string post_norm;    // canonical name; empty: none
  bool residual = true;     // false: without x
  double output_scale = 1;  // of x with what was added to it
};

// The usual layer: a mixer and what follows it position by position, each added to what it is given.
std::vector<Sublayer> MixerAndNetwork(Branch mixer, Branch network);

struct DecoderSpec {
  // family, layout, width, vocab_size, max_positions, conventions and settings; what follows from the
  // modules is filled in.
  ModelDescription description;
  std::vector<std::vector<Sublayer>> layers;
  NormSpec norm;  // of every norm named above and of the outer ones
  double embedding_scale = 1;
  double logits_scale = 1;
  double logits_cap = 0;  // cap·tanh(logits/cap); 0: none
  bool residual_in_float32 = false;
  bool carries_embedding = false;  // between layers, x is [x | embedding]
  bool tied = false;               // the head is the embedding
  bool head_bias = false;
  int64_t head_width = 0;               // of what the head reads; 0: description.width
  double draw_deviation = 0.02;         // of fresh embeddings and projections
  double residual_draw_deviation = 0;   // of projections onto the residual stream; 0: the same
  bool transposed_projections = false;  // the layers' are stored as (in, out)
  // Keys of the checkpoint, without ".weight".
  std::string embedding_key = "model.embed_tokens", positions_key, embedding_norm_key,
              norm_key = "model.norm", head_key = "lm_head";  // empty: none (not for embedding and head)
  // '#' in the prefix and in the keys of layers stands for the layer's number, from `first_layer` on.
  std::string layer_prefix = "model.layers.#.";
  KeyMap layer_keys;  // where keys differ from canonical names
  int first_layer = 0;
  // Weights outside the layers that modules share (WeightSpec::tied_to); null: none.
  std::function<void(const WeightPlanner& outer)> plan_shared;
  std::vector<std::string> ignored_keys;  // patterns of buffers that the forward pass recomputes
  // The last word on each planned weight, for keys and ties that follow no pattern; may be empty.
  std::function<void(WeightSpec&)> adjust;
};

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadDecoder(DecoderSpec spec, const Archive& archive,
                                                                 const LoadOptions& options);
absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeDecoder(DecoderSpec spec, uint64_t seed,
                                                                       const LoadOptions& options);

}  // namespace eigsvc
