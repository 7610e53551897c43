// What hybrids of Mamba and attention in Hugging Face's layout share: how their parts are read from the
// settings. Missing settings that shapes would not correct are asked for, or take a small model's values
// where it is fresh.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/archive/archive.h"
#include "models/mixers/attention.h"
#include "models/mixers/feed_forward.h"
#include "models/mixers/mamba2.h"
#include "models/zoo/decoder.h"
#include "models/zoo/settings_reader.h"

namespace eigsvc {

class HybridReader {
 public:
  // `typed`: those of the settings that a user typed. `archive`: null for a fresh model. All outlive this.
  HybridReader(const Settings& settings, const Settings& typed, const Archive* archive)
      : reader(settings), typed_(typed), archive_(archive) {}

  bool fresh() const { return archive_ == nullptr; }
  // A size of at least one; `small`: a fresh model's.
  int64_t Size(SettingsReader::Names names, int64_t small);
  // The family, layout, sizes, norms and head of a decoder, whose layers are still to come. `eps` of the
  // norms is the setting's name, `usual_eps` what a silent configuration means.
  DecoderSpec ReadShell(absl::string_view family, absl::string_view eps, double usual_eps);
  // num_hidden_layers: a checkpoint's own, `small` of a fresh model.
  int64_t ReadLayers(int64_t layers, int64_t small);
  // num_attention_heads, num_key_value_heads and head_dim of `width`, without rotation. FAILED_PRECONDITION
  // where the latter two are not those of a checkpoint's q, k, v and o, whose key ends in `output`.
  AttentionSpec ReadAttention(int64_t width, absl::string_view output = ".o_proj.weight");
  // Turns the first `share` of a head's dimensions by rope_theta: partial_rotary_factor, where a family reads
  // it. FAILED_PRECONDITION for stretched contexts.
  void ReadRotary(double share, at::ScalarType dtype, AttentionSpec& attention);
  // The settings that Bamba's relatives call mamba_*. INVALID_ARGUMENT where they do not go together.
  absl::StatusOr<Mamba2Spec> ReadMamba2(int64_t width, int64_t depth, double norm_eps);
  // Of each layer, whether the list `setting` calls it `kind` and not `other`; `usual` without one.
  // FAILED_PRECONDITION for any other kind, INVALID_ARGUMENT for another number of them.
  std::vector<bool> ReadEither(absl::string_view setting, absl::string_view kind, absl::string_view other,
                               const std::vector<bool>& usual);
  Activation ReadActivation(absl::string_view name, absl::string_view usual);
  // The setting of an activation that transformers gives to the short convolution, whose kernels know no
  // other than silu. FAILED_PRECONDITION for others.
  void RequireSilu(absl::string_view name);

  // The first error; the resolved settings; INVALID_ARGUMENT for unknown ones that were typed.
  absl::Status Finish(DecoderSpec& spec);

  SettingsReader reader;

 private:
  // A dimension, over `parts`, of a checkpoint's first tensor whose key ends so.
  std::optional<int64_t> StoredShare(absl::string_view ending, size_t dimension, int64_t parts);

  const Settings& typed_;
  const Archive* const archive_;
};

}  // namespace eigsvc
