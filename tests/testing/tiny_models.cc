#include "tests/testing/tiny_models.h"

#include <cctype>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"

namespace eigsvc::testing {
namespace {

struct Variant {
  absl::string_view family, layout, name, settings;
};

// What the defaults of a small model do not reach.
constexpr Variant kVariants[] = {
    {"mamba2", "state-spaces", "groups",
     R"({"d_model": 24, "headdim": 6, "d_state": 5, "ngroups": 2, "d_conv": 3, "tie_embeddings": false})"},
    {"mamba2", "state-spaces", "options",
     R"({"d_model": 24, "headdim": 6, "d_state": 5, "rms_norm": false, "rmsnorm": false, "bias": true,
         "conv_bias": false, "D_has_hdim": true, "d_ssm": 36, "dt_limit": [0.01, 0.5], "n_layer": 1})"},
    {"mamba2", "huggingface", "groups",
     R"({"hidden_size": 24, "head_dim": 6, "state_size": 5, "n_groups": 4, "conv_kernel": 2,
         "gated_norm_groups": 1, "time_step_limit": [0.01, {"__float__": "Infinity"}], "use_bias": true})"},
    {"mamba2", "paper", "post_norm",
     R"({"hidden_dim": 24, "num_heads": 2, "expansion": 2, "state_dim": 5, "prenorm": false, "glu": false,
         "learnable_init_states": true})"},
};

Settings TinySettings(absl::string_view family, absl::string_view layout, absl::string_view json) {
  Settings settings = *Settings::Parse(json, "a test's settings");
  settings.Set("family", family);
  settings.Set("layout", layout);
  settings.Set("vocab_size", kTinyVocabulary);
  return settings;
}

}  // namespace

std::string TinyModelName(const TinyModel& model) {
  std::string name =
      absl::StrCat(model.family, "_", model.layout, model.variant.empty() ? "" : "_", model.variant);
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

void PrintTo(const TinyModel& model, std::ostream* out) { *out << TinyModelName(model); }

std::vector<TinyModel> TinyModels() {
  std::vector<TinyModel> models;
  for (const FamilyEntry& family : Families()) {
    if (!family.trainable) continue;
    for (const std::string& layout : family.layouts) {
      const std::string name(family.name);
      models.push_back({name, layout, "", TinySettings(name, layout, "{}")});
      for (const Variant& variant : kVariants) {
        if (variant.family != name || variant.layout != layout) continue;
        models.push_back(
            {name, layout, std::string(variant.name), TinySettings(name, layout, variant.settings)});
      }
    }
  }
  return models;
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> MakeTiny(const TinyModel& model, uint64_t seed,
                                                              c10::ScalarType dtype) {
  EIGSVC_ASSIGN_OR_RETURN(const FamilyEntry* family, FindFamily(model.family));
  LoadOptions options;
  options.dtype = dtype;
  return family->initialize(model.settings, seed, options);
}

}  // namespace eigsvc::testing
