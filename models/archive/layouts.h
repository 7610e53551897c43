// The table of checkpoint layouts: by which keys and which model_type each is known. A family's are in its
// file of models/archive/layouts; the families themselves are in models/zoo.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace eigsvc {

// '#' stands for the layer's number.
struct Layout {
  absl::string_view family, name;
  absl::string_view mixer;                     // of its layers: "mamba2", or "mamba + attention"
  std::vector<absl::string_view> model_types;  // of its config.json; empty: there is none, or no such entry
  // Values of its settings' attention_fn, which tells families of the same keys apart; empty: there is none.
  std::vector<absl::string_view> attention_fns;
  std::vector<absl::string_view> embeddings;       // one of these keys; empty: none needed
  std::vector<absl::string_view> layer_keys;       // all of them, in every layer
  std::vector<absl::string_view> some_layer_keys;  // each in at least one layer (hybrids)
  int first_layer = 0;                             // the number of the first one
  int64_t gates = 0;                               // rows of layer_keys[0] for each column; 0: any
  std::vector<absl::string_view> settings;  // one of these tells it from another with its keys; empty: none
  bool relative = false;    // it has the keys of another, which is meant where no setting decides
  bool unwindowed = false;  // its layers see everything; relatives of the same keys see windows
};

// Those of all families, relatives behind all others. Where the keys of several fit and no setting decides,
// the one with the most keys is taken, then one that fits every layer, then the earlier.
absl::Span<const Layout> Layouts();

// What each family gives the table: std::vector<Layout> LlamaLayouts(), ...
#define EIGSVC_FAMILY(NAME) std::vector<Layout> NAME##Layouts();
#include "models/archive/families.inc"

// What flash-linear-attention's models have in every layer, whatever its mixer.
std::vector<absl::string_view> FlaLayerKeys();

}  // namespace eigsvc
