// What RWKV's families have in common in their files.
#pragma once

#include "absl/strings/string_view.h"
#include "models/zoo/settings_reader.h"

namespace eigsvc {

// The layout of RWKV-LM's .pth files, which state no settings.
inline constexpr absl::string_view kRwkvLm = "rwkv-lm";

// Of flash-linear-attention's RWKV-6 and RWKV-7, and what the others do.
struct RwkvFlaSettings {
  double norm_eps = 1e-5;
  bool norm_first = true;  // a norm of the embedding
  bool norm_bias = true;
  bool tied = false;
};

// `fla`: whether the layout has them. Refuses those of models that mix in softmax attention.
RwkvFlaSettings ReadRwkvFlaSettings(SettingsReader& reader, bool fla);

}  // namespace eigsvc
