#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> XlstmLayouts() {
  return {
      {.family = "xlstm",
       .name = "nx-ai",
       .mixer = "mlstm",
       .embeddings = {"token_embedding.weight"},
       .layer_keys = {"xlstm_block_stack.blocks.#.xlstm_norm.weight",
                      "xlstm_block_stack.blocks.#.xlstm.mlstm_cell.igate.weight"}},
      {.family = "xlstm",
       .name = "nx-ai",
       .mixer = "slstm",
       .embeddings = {"token_embedding.weight"},
       .layer_keys = {"xlstm_block_stack.blocks.#.xlstm_norm.weight",
                      "xlstm_block_stack.blocks.#.xlstm.slstm_cell._recurrent_kernel_"}},
      {.family = "xlstm",
       .name = "nx-ai",
       .mixer = "mlstm + slstm",
       .embeddings = {"token_embedding.weight"},
       .layer_keys = {"xlstm_block_stack.blocks.#.xlstm_norm.weight"},
       .some_layer_keys = {"xlstm_block_stack.blocks.#.xlstm.mlstm_cell.igate.weight",
                           "xlstm_block_stack.blocks.#.xlstm.slstm_cell._recurrent_kernel_"}},
      {.family = "xlstm",
       .name = "huggingface",
       .mixer = "mlstm",
       .model_types = {"xlstm"},
       .embeddings = {"backbone.embeddings.weight"},
       .layer_keys = {"backbone.blocks.#.norm_mlstm.weight",
                      "backbone.blocks.#.mlstm_layer.multihead_norm.weight",
                      "backbone.blocks.#.mlstm_layer.out_proj.weight",
                      "backbone.blocks.#.ffn.proj_down.weight"}},
  };
}

}  // namespace eigsvc
