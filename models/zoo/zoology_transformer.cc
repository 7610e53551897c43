// The language model of the zoology repository (arXiv 2312.04927) with its multi-head softmax attention in
// every layer: LayerNorm, one projection to [q | k | v], LayerNorm and a position-wise network; learned
// positions, biases, a tied head.
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/attention.h"
#include "models/mixers/feed_forward.h"
#include "models/zoo/decoder.h"
#include "models/zoo/families.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

constexpr const char* kLayer = "backbone.layers.0.";

// What follows the attention: sequence_mixer is MHA, state_mixer one of zoology's MLP and GLU, or nothing.
enum class StateMixer { kMlp, kGlu, kIdentity };

absl::StatusOr<StateMixer> ReadStateMixer(SettingsReader& reader, const Archive* archive) {
  const auto has = [&](const char* rest) {
    return archive != nullptr && archive->tensors().contains(absl::StrCat(kLayer, "state_mixer.", rest));
  };
  const char* stored = has("fc3.weight")                         ? "GLU"
                       : has("fc1.weight") || archive == nullptr ? "MLP"
                                                                 : "Identity";
  const std::string name = reader.Text({"state_mixer.name"}, stored);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (name == "MLP" || absl::EndsWith(name, ".MLP")) return StateMixer::kMlp;
  if (name == "GLU" || absl::EndsWith(name, ".GLU")) return StateMixer::kGlu;
  if (name == "Identity" || absl::EndsWith(name, ".Identity")) return StateMixer::kIdentity;
  return absl::FailedPreconditionError(
      absl::StrCat("setting \"state_mixer.name\" is \"", name, "\"; supported: MLP, GLU, Identity"));
}

// Weights do not tell: zoology's attention over windows and its sparse ones have MHA's keys and shapes.
absl::Status CheckSequenceMixer(SettingsReader& reader, const Archive* archive) {
  if (archive != nullptr && !reader.Has({"sequence_mixer.name"})) {
    return absl::FailedPreconditionError(
        "SlidingAttn, BigBird and others of zoology's mixers have the keys of MHA, and no setting "
        "sequence_mixer.name tells which this is: pass the model's own configuration, or, of MHA with two "
        "heads, "
        "--config '{\"sequence_mixer\": {\"name\": \"MHA\", \"kwargs\": {\"num_heads\": 2}}}'");
  }
  const std::string name = reader.Text({"sequence_mixer.name"}, "MHA");
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (name == "MHA" || absl::EndsWith(name, ".MHA")) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("setting \"sequence_mixer.name\" is \"", name, "\"; this family runs MHA"));
}

std::unique_ptr<const Module> NetworkOf(StateMixer kind, const FeedForwardSpec& spec) {
  if (kind == StateMixer::kIdentity) return std::make_unique<Identity>("state_mixer.");
  if (kind == StateMixer::kGlu) return std::make_unique<GatedFeedForward>("state_mixer.", spec);
  return std::make_unique<FeedForward>("state_mixer.", spec);
}

absl::StatusOr<DecoderSpec> ZoologySpec(const Settings& settings, const Settings& typed,
                                        const Archive* archive, int64_t found_layers) {
  const auto stored = [&](const std::string& key, size_t dimension) -> std::optional<int64_t> {
    return archive == nullptr ? std::nullopt : StoredSize(*archive, key, dimension);
  };
  const std::string words = "backbone.embeddings.word_embeddings.weight",
                    positions = "backbone.embeddings.position_embeddings.weight";
  SettingsReader reader(settings);
  EIGSVC_RETURN_IF_ERROR(CheckSequenceMixer(reader, archive));
  DecoderSpec spec;
  const int64_t layers = reader.IntWithin({"n_layers"}, 1, 4096, archive ? found_layers : 2);
  AttentionSpec attention;
  attention.width = reader.IntWithin({"d_model"}, 1, kLargestSize, stored(words, 1).value_or(64));
  // A configuration that is silent means one head; whoever typed no more than the mixer's name said nothing.
  const bool said = archive == nullptr || reader.Has({"sequence_mixer.kwargs"});
  const std::vector<absl::string_view> heads = {"sequence_mixer.kwargs.num_heads", "num_heads"};
  attention.heads = attention.groups =
      reader.IntWithin(heads, 1, 65536, said ? std::optional<int64_t>(1) : std::nullopt);
  attention.projection = AttentionSpec::Projection::kFused;
  attention.qkv_bias = reader.Bool({"sequence_mixer.kwargs.bias"}, true);
  attention.output_bias = true;
  EIGSVC_ASSIGN_OR_RETURN(const StateMixer kind, ReadStateMixer(reader, archive));
  FeedForwardSpec mlp{attention.width, attention.width, Activation::kGelu, /*bias=*/true};
  if (kind != StateMixer::kIdentity) {
    const int64_t hidden =
        stored(absl::StrCat(kLayer, "state_mixer.fc1.weight"), 0).value_or(4 * attention.width);
    mlp.hidden = attention.width * reader.IntWithin({"state_mixer.kwargs.hidden_mult"}, 1, 1024,
                                                    std::clamp<int64_t>(hidden / attention.width, 1, 1024));
  }
  // A checkpoint's is padded to a multiple; its configuration may or may not say so.
  const std::optional<int64_t> rows = stored(words, 0);
  const int64_t multiple = reader.IntWithin({"pad_vocab_size_multiple"}, 1, kLargestSize, 1);
  const int64_t vocabulary = reader.IntWithin({"vocab_size"}, 1, kLargestSize, rows.value_or(64));
  const int64_t padded = (vocabulary + multiple - 1) / multiple * multiple;
  spec.description.vocab_size = padded;
  if (padded != rows.value_or(padded)) {
    reader.Fail(
        reader.Naming(absl::FailedPreconditionError(absl::StrCat("the vocabulary comes to ", padded,
                                                                 " tokens, but the weights have ", *rows)),
                      {"vocab_size", "pad_vocab_size_multiple"}));
  }
  spec.description.max_positions = reader.IntWithin({"max_position_embeddings"}, 0, kLargestSize,
                                                    stored(positions, 0).value_or(archive ? 0 : 64));
  spec.norm = {NormSpec::Kind::kLayer, reader.NonNegative({"layer_norm_epsilon"}, 1e-5)};
  spec.tied = reader.Bool({"tie_embeddings", "learnable_word_embeddings"}, true);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (spec.norm.eps != 1e-5) {
    return absl::FailedPreconditionError(absl::StrCat(
        "setting \"layer_norm_epsilon\" is ", spec.norm.eps,
        "; it is the final norm's alone, and one that differs from the layers' 1e-5 is not supported"));
  }
  if (attention.width % attention.heads != 0) {
    return reader.Disagree("the width does not divide into the heads", {"d_model", reader.Spelt(heads)});
  }
  attention.key_size = attention.value_size = attention.width / attention.heads;
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed, "zoology-transformer"));

  spec.description.family = "zoology-transformer";
  spec.description.layout = "zoology";
  spec.description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
  spec.description.width = attention.width;
  spec.description.settings = reader.Resolved("zoology-transformer", "zoology");
  spec.embedding_key = "backbone.embeddings.word_embeddings";
  if (spec.description.max_positions > 0) spec.positions_key = "backbone.embeddings.position_embeddings";
  spec.norm_key = "backbone.ln_f";
  spec.layer_prefix = "backbone.layers.#.";
  const bool gated = kind == StateMixer::kGlu;  // fc1 is multiplied by the activation of fc2
  spec.layer_keys = {{"sequence_mixer.qkv_proj", "sequence_mixer.Wqkv"},
                     {"sequence_mixer.o_proj", "sequence_mixer.out_proj"},
                     {"state_mixer.up_proj", "state_mixer.fc1"},
                     {"state_mixer.gate_proj", "state_mixer.fc2"},
                     {"state_mixer.down_proj", gated ? "state_mixer.fc3" : "state_mixer.fc2"}};
  spec.residual_draw_deviation = spec.draw_deviation / std::sqrt(2.0 * static_cast<double>(layers));
  for (int64_t layer = 0; layer < layers; ++layer) {
    Branch mixer{std::make_unique<Attention>("sequence_mixer.", attention), "norm1"};
    Branch network{NetworkOf(kind, mlp), "norm2"};
    spec.layers.push_back(MixerAndNetwork(std::move(mixer), std::move(network)));
  }
  return spec;
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadZoology(const Archive& archive,
                                                                 const Detection& detection,
                                                                 const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec,
                          ZoologySpec(detection.settings, detection.typed, &archive, detection.layers));
  return LoadDecoder(std::move(spec), archive, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeZoology(const Settings& settings,
                                                                       uint64_t seed,
                                                                       const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec, ZoologySpec(settings, settings, nullptr, 0));
  return InitializeDecoder(std::move(spec), seed, options);
}

}  // namespace

FamilyEntry ZoologyTransformerFamily() {
  return {"zoology-transformer",
          {"zoology"},
          "zoology's language model with softmax attention, as the MQAR benchmarks train it",
          "λ_i = ν_{i-1}/ν_i of the softmax normalisers, per head and step from the second on, real > 0",
          /*trainable=*/true,
          LoadZoology,
          InitializeZoology,
          "arXiv 2312.04927; arXiv 2405.15731"};
}

}  // namespace eigsvc
