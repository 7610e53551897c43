// Stack: an encoder, blocks that are whole layers, a norm, and a head that answers at every step or once a
// sequence: the classifiers and language models of arXiv 2510.09379 and the state-space models' own
// repositories.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/archive/archive.h"
#include "models/mixers/module.h"
#include "models/mixers/normalization.h"
#include "models/zoo/registry.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc {

// How the steps of a sequence become one answer, over its real steps.
enum class Pooling { kNone, kMean, kMax, kSum, kFirst, kLast };
// The paper's names: none, mean, max, sum, cls, last.
std::string PoolingName(Pooling pooling);
absl::StatusOr<Pooling> PoolingOf(const std::string& name, const std::vector<Pooling>& supported);

struct StackSpec {
  // family, layout, width, vocab_size, channels, classes, max_positions (of learned ones too), conventions
  // and settings; what follows from the modules is filled in.
  ModelDescription description;
  std::vector<std::unique_ptr<const Module>> layers;
  enum class Encoder {
    kEmbedding,  // of tokens, with learned positions where there are any
    kLinear,     // of real inputs
    kOneHot,     // a linear layer over tokens as one-hot vectors, or over real inputs
  };
  Encoder encoder = Encoder::kEmbedding;
  int64_t positions = 0;  // learned ones; 0: none
  std::optional<NormSpec> norm;
  Pooling pooling = Pooling::kNone;
  bool head_bias = false;
  int64_t classifier_width = 0;  // of a hidden layer with ReLU before the logits; 0: none
  LinearStyle linear;
  // Of the outside, whose canonical names are embedding, positions, encoder, norm, hidden and head, and of a
  // layer, behind its prefix; '#' stands for the layer.
  KeyMap outer_keys, layer_keys;
  std::string layer_prefix = "layers.#.";
  std::vector<std::string> ignored_keys;
};

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadStack(StackSpec spec, const Archive& archive,
                                                               const LoadOptions& options);
absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeStack(StackSpec spec, uint64_t seed,
                                                                     const LoadOptions& options);

}  // namespace eigsvc
