// What Mamba-1 and Mamba-2 models share in the layouts of state-spaces/mamba, Hugging Face and
// flash-linear-attention: the names of their settings, and all that is outside the mixers. state-spaces' may
// have softmax attention in some layers, and a gated MLP behind every mixer (its modules/mha.py and mlp.py).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "models/archive/archive.h"
#include "models/mixers/attention.h"
#include "models/mixers/mamba2.h"
#include "models/zoo/decoder.h"
#include "models/zoo/settings_reader.h"

namespace eigsvc {

// Δ's limits, [low, high]; errors stick to the reader.
void ReadStepLimit(SettingsReader& reader, SettingsReader::Names names, Mamba2Spec& spec);

class MambaSettings {
 public:
  // `typed`: those of the settings that a user typed. `archive`: whose shapes decide what the settings leave
  // open; null for a fresh model. All outlive this.
  MambaSettings(const Settings& settings, const Settings& typed, std::string layout, const Archive* archive)
      : reader(settings), settings_(settings), typed_(typed), layout_(std::move(layout)), archive_(archive) {}

  // A setting's names, the layout's own first. `official`: state-spaces', with the "ssm_cfg." that it has in
  // config.json and may lack where a user types it.
  std::vector<absl::string_view> Names(absl::string_view official, absl::string_view other) const;
  bool fresh() const { return archive_ == nullptr; }
  const std::string& layout() const { return layout_; }
  // Of a tensor of the first layer's mixer that is no attention; nothing for a fresh model or where there is
  // none. REQUIRES ReadShell.
  std::optional<int64_t> MixerSize(absl::string_view name, size_t dimension = 0) const;
  // Whether it is there; `otherwise` for a fresh model.
  bool HasMixerKey(absl::string_view name, bool otherwise) const;

  // What surrounds the mixers, whose layers are still to come.
  struct Shell {
    DecoderSpec decoder;
    int64_t layers = 0, width = 0;
    int64_t inner = 0;                           // the mixer's channels: expand·width
    std::vector<absl::string_view> inner_names;  // of the settings that they come from
    std::vector<bool> attends;                   // of each layer, whether its mixer is `attention`
    AttentionSpec attention;
    int64_t mlp = 0;  // hidden width of the MLP behind every mixer; 0: there is none
  };
  // `kind`: of the layers that are no attention, "Mamba1" or "Mamba2"; FAILED_PRECONDITION for others.
  // `layers`: those of the checkpoint.
  absl::StatusOr<Shell> ReadShell(absl::string_view family, absl::string_view kind,
                                  std::optional<int64_t> layers, at::ScalarType dtype);
  // Fills the layers with what `mixer` makes and with attention; the settings are what was asked for.
  // INVALID_ARGUMENT for typed settings that nothing asked for.
  absl::StatusOr<DecoderSpec> Finish(Shell shell,
                                     const std::function<std::unique_ptr<const Module>()>& mixer);

  SettingsReader reader;

 private:
  absl::Status RefuseOthers(absl::string_view kind);
  std::vector<bool> ReadAttending(int64_t layers);
  AttentionSpec ReadAttention(int64_t width, at::ScalarType dtype);
  std::shared_ptr<const Rotary> ReadAttentionRotary(int64_t head_size, at::ScalarType dtype);
  int64_t ReadMlp();
  void ReadVocabulary(Shell& shell);
  NormSpec::Kind ReadNormKind();
  bool HasKey(absl::string_view key) const {
    return archive_ != nullptr && archive_->tensors().contains(key);
  }

  const Settings& settings_;
  const Settings& typed_;
  const std::string layout_;
  const Archive* const archive_;
  int64_t first_ = 0;  // the first layer that is no attention
};

}  // namespace eigsvc
