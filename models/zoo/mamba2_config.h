// Mamba2Config: the settings of a Mamba-2 model in the layouts of state-spaces/mamba and Hugging Face, read
// from either one's names, derived from the shapes of a checkpoint where they can be, and written back.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "models/archive/archive.h"
#include "models/archive/detect.h"
#include "models/base/settings.h"
#include "models/zoo/mamba2_model.h"

namespace eigsvc {

struct Mamba2Config {
  std::string layout;             // "state-spaces" or "huggingface"
  std::string embedding_key;      // the two layouts differ in one letter
  int64_t layers = 0, width = 0;  // width: D
  int64_t vocab_size = 0;         // rows of the embedding, padding included
  int64_t gated_mlp = 0;          // width of the gated MLP beside the SSM (`d_ssm` below expand·D)
  SsmShape ssm;
  double norm_eps = 1e-5;
  double gated_norm_eps = 1e-5;
  int64_t gated_norm_groups = 1;
  bool rms_norm = true;    // false: LayerNorm before each mixer and at the end
  bool gated_norm = true;  // false: y·silu(z) alone
  bool norm_before_gate = false;
  bool residual_in_fp32 = true;
  bool tied = true;
  bool projection_bias = false;
  bool conv_bias = true;
  bool skip_per_channel = false;  // D_has_hdim

  int64_t inner() const { return ssm.inner() + gated_mlp; }
  int64_t projection_rows() const { return 2 * gated_mlp + ssm.inner() + ssm.conv_rows() + ssm.heads; }
  // In the layout's own names.
  Settings ToSettings() const;
};

// FAILED_PRECONDITION: a setting that shapes do not determine is missing (the message says which and how to
// pass it), or the model is a hybrid of a kind this family does not run.
// INVALID_ARGUMENT: an unknown one that the caller typed.
absl::StatusOr<Mamba2Config> Mamba2ConfigOf(const Archive& archive, const Detection& detection);
// Missing settings take the defaults of a small model. INVALID_ARGUMENT for unknown or inconsistent ones.
absl::StatusOr<Mamba2Config> Mamba2ConfigOf(const Settings& settings);

}  // namespace eigsvc
