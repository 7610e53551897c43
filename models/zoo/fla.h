// The language-model shell that flash-linear-attention (fla) puts around all of its mixers: RMSNorm, mixer,
// RMSNorm, gated MLP on a residual stream, and softmax attention in the layers that its settings' `attn`
// names. A family of it is a function that reads its mixer's settings.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "models/zoo/decoder.h"
#include "models/zoo/settings_reader.h"

namespace eigsvc {

// What a family is read for.
struct FlaRequest {
  SettingsReader& reader;
  const Archive* archive;  // whose shapes decide what settings leave open; null for a fresh model
  int64_t layers;
  int64_t width;
  at::ScalarType dtype;
};

// Makes a layer's mixer, whose canonical name starts with "attn.".
using FlaMixer = std::function<std::unique_ptr<const Module>(int64_t layer)>;

struct FlaFamily {
  absl::string_view name;  // model_type
  double hidden_ratio = 4;
  // Reads the mixer's settings; errors go to the reader. May change the spec: its conventions, shared
  // weights.
  FlaMixer (*read_mixer)(const FlaRequest& request, DecoderSpec& spec);
};

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadFla(const FlaFamily& family, const Archive& archive,
                                                             const Detection& detection,
                                                             const LoadOptions& options);
absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeFla(const FlaFamily& family,
                                                                   const Settings& settings, uint64_t seed,
                                                                   const LoadOptions& options);

// The registry's entry of a family with this layout alone.
template <const FlaFamily& kFamily>
FamilyEntry FlaEntry(absl::string_view summary, absl::string_view transition, absl::string_view reference) {
  return {kFamily.name,
          {"fla"},
          summary,
          transition,
          /*trainable=*/true,
          [](const Archive& archive, const Detection& detection, const LoadOptions& options) {
            return LoadFla(kFamily, archive, detection, options);
          },
          [](const Settings& settings, uint64_t seed, const LoadOptions& options) {
            return InitializeFla(kFamily, settings, seed, options);
          },
          reference};
}

// Sizes of heads as fla states them: expand_k and expand_v times the width, shared by num_heads.
struct FlaHeads {
  int64_t heads = 0, groups = 0, key_size = 0, value_size = 0;
};
FlaHeads ReadExpandedHeads(const FlaRequest& request, double expand_k, double expand_v);
// conv_size where use_short_conv is set, else 0.
int64_t ReadTaps(SettingsReader& reader, bool by_default);

}  // namespace eigsvc
