// Rotary embeddings as transformers' configurations spell them: `rope_parameters` since its version 5,
// `rope_theta` and `rope_scaling` before.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "models/base/settings.h"
#include "models/layers/rope.h"
#include "models/zoo/settings_reader.h"

namespace eigsvc {

// What a family takes where its settings are silent.
struct RotaryDefaults {
  int64_t head_size = 0;
  std::vector<absl::string_view> head_fields;  // the settings that it comes from, as they are spelt
  double base = 10000;
  double trained_positions = 2048;  // its max_position_embeddings
  // partial_rotary_factor, the share of a head that is turned; 0: the family turns all of it and other shares
  // are refused.
  double share = 0;
  // Of families whose parameters are nested by the kind of layer: "full_attention" or "sliding_attention". In
  // the old spelling `rope_scaling` is the former's.
  absl::string_view layer_type = "";
};

// Errors stick to the reader: unknown kinds of scaling, missing or senseless parameters.
RotarySpec ReadRotary(SettingsReader& reader, const RotaryDefaults& defaults);

// Whether a base is stated, of all layers or of those of full attention, under a name that ReadRotary knows.
bool StatesRotaryBase(const Settings& settings);

}  // namespace eigsvc
