#include "models/archive/layouts.h"

#include <algorithm>

namespace eigsvc {

absl::Span<const Layout> Layouts() {
  static const auto* const layouts = [] {
    auto* all = new std::vector<Layout>;
    const auto append = [&](const std::vector<Layout>& some) {
      all->insert(all->end(), some.begin(), some.end());
    };
#define EIGSVC_FAMILY(NAME) append(NAME##Layouts());
#include "models/archive/families.inc"
    std::stable_partition(all->begin(), all->end(), [](const Layout& layout) { return !layout.relative; });
    return all;
  }();
  return *layouts;
}

std::vector<absl::string_view> FlaLayerKeys() {
  return {"model.layers.#.attn_norm.weight", "model.layers.#.mlp_norm.weight",
          "model.layers.#.attn.o_proj.weight", "model.layers.#.mlp.gate_proj.weight"};
}

}  // namespace eigsvc
