#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> LruLayouts() {
  return {
      {.family = "lru",
       .name = "paper",
       .mixer = "lru",
       .layer_keys = {"encoder.layers_#.seq.nu_log", "encoder.layers_#.seq.theta_log",
                      "encoder.layers_#.seq.gamma_log", "encoder.layers_#.seq.B_re",
                      "encoder.layers_#.normalize.scale"}},
      {.family = "lru",
       .name = "minimal-lru",
       .mixer = "lru",
       .layer_keys = {"encoder.layers_#.seq.nu_log", "encoder.layers_#.seq.theta_log",
                      "encoder.layers_#.seq.gamma_log", "encoder.layers_#.seq.B_re",
                      "encoder.layers_#.normalization.scale"}},
  };
}

std::vector<Layout> S5Layouts() {
  return {
      {.family = "s5",
       .name = "paper",
       .mixer = "s5",
       .layer_keys = {"encoder.layers_#.seq.Lambda_re", "encoder.layers_#.seq.Lambda_im",
                      "encoder.layers_#.seq.B", "encoder.layers_#.seq.C", "encoder.layers_#.seq.log_step"}},
  };
}

}  // namespace eigsvc
