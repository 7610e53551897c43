#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> S4Layouts() {
  return {
      {.family = "s4",
       .name = "paper",
       .mixer = "s4",
       .layer_keys = {"encoder.layers_#.seq.Lambda_re", "encoder.layers_#.seq.Lambda_im",
                      "encoder.layers_#.seq.P", "encoder.layers_#.seq.B", "encoder.layers_#.seq.C",
                      "encoder.layers_#.seq.log_step"}},
      {.family = "s4",
       .name = "state-spaces",
       .mixer = "s4",
       .layer_keys = {"model.layers.#.layer.layer.kernel.C", "model.layers.#.layer.layer.kernel.B",
                      "model.layers.#.layer.layer.kernel.P", "model.layers.#.layer.layer.kernel.A_real",
                      "model.layers.#.layer.layer.kernel.inv_dt"}},
      {.family = "s4",
       .name = "state-spaces",
       .mixer = "s4",
       .layer_keys = {"model.layers.#.layer.kernel.kernel.C", "model.layers.#.layer.kernel.kernel.B",
                      "model.layers.#.layer.kernel.kernel.P", "model.layers.#.layer.kernel.kernel.w_imag",
                      "model.layers.#.layer.kernel.kernel.log_dt"}},
      {.family = "s4",
       .name = "state-spaces",
       .mixer = "s4",
       .layer_keys = {"s4_layers.#.layer.kernel.C", "s4_layers.#.layer.kernel.B",
                      "s4_layers.#.layer.kernel.P", "s4_layers.#.layer.kernel.A_real",
                      "s4_layers.#.layer.kernel.inv_dt"}},
      {.family = "s4",
       .name = "state-spaces",
       .mixer = "s4",
       .layer_keys = {"s4_layers.#.kernel.kernel.C", "s4_layers.#.kernel.kernel.B",
                      "s4_layers.#.kernel.kernel.P", "s4_layers.#.kernel.kernel.w_imag",
                      "s4_layers.#.kernel.kernel.log_dt"}},
  };
}

std::vector<Layout> S4dLayouts() {
  return {
      {.family = "s4d",
       .name = "state-spaces",
       .mixer = "s4d",
       .layer_keys = {"model.layers.#.layer.layer.kernel.C", "model.layers.#.layer.layer.kernel.B",
                      "model.layers.#.layer.layer.kernel.A_real",
                      "model.layers.#.layer.layer.kernel.inv_dt"}},
      {.family = "s4d",
       .name = "state-spaces",
       .mixer = "s4d",
       .layer_keys = {"model.layers.#.layer.kernel.kernel.C", "model.layers.#.layer.kernel.kernel.B",
                      "model.layers.#.layer.kernel.kernel.inv_A_real",
                      "model.layers.#.layer.kernel.kernel.log_dt"}},
      {.family = "s4d",
       .name = "state-spaces",
       .mixer = "s4d",
       .layer_keys = {"s4_layers.#.layer.kernel.C", "s4_layers.#.layer.kernel.B",
                      "s4_layers.#.layer.kernel.A_real", "s4_layers.#.layer.kernel.inv_dt"}},
      {.family = "s4d",
       .name = "state-spaces",
       .mixer = "s4d",
       .layer_keys = {"s4_layers.#.kernel.kernel.C", "s4_layers.#.kernel.kernel.B",
                      "s4_layers.#.kernel.kernel.inv_A_real", "s4_layers.#.kernel.kernel.log_dt"}},
      {.family = "s4d",
       .name = "minimal",
       .mixer = "s4d",
       .layer_keys = {"s4_layers.#.kernel.C", "s4_layers.#.kernel.log_dt", "s4_layers.#.kernel.log_A_real",
                      "s4_layers.#.kernel.A_imag"}},
  };
}

}  // namespace eigsvc
