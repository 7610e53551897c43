#include "models/zoo/rwkv_settings.h"

#include "absl/status/status.h"

namespace eigsvc {

RwkvFlaSettings ReadRwkvFlaSettings(SettingsReader& reader, bool fla) {
  RwkvFlaSettings read;
  if (fla) {
    read.norm_eps = reader.NonNegative({"norm_eps"}, 1e-5);
    read.norm_first = reader.Bool({"norm_first"}, true);
    read.norm_bias = reader.Bool({"norm_bias"}, true);
    read.tied = reader.Bool({"tie_word_embeddings"}, false);
    reader.Choice({"hidden_act"}, {"sqrelu"}, "sqrelu");
  }
  if (reader.Has({"attn"})) {
    reader.Fail(absl::FailedPreconditionError(
        "setting \"attn\" puts softmax attention into some layers, which is not supported of RWKV"));
  }
  // How it is computed there, and what training does.
  reader.Ignore({"attn", "attn_mode", "fuse_norm", "fuse_cross_entropy", "fuse_linear_cross_entropy",
                 "use_l2warp", "max_position_embeddings", "hidden_ratio"});
  return read;
}

}  // namespace eigsvc
