#include "models/archive/detect.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/layouts.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Keys = std::vector<std::string>;

auto Refused(const std::string& what) {
  return StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(what));
}

// The settings of a checkpoint, as JSON.
Settings Config(const std::string& json) { return Settings::Parse(json, "config.json").value(); }

struct Fake {
  Keys outer, layer;  // '#' is the layer's number
  int layers = 2;
  std::map<std::string, std::vector<int64_t>> shapes;  // of those that matter; others are scalars

  Archive Build(const std::string& config = "{}") const {
    absl::btree_map<std::string, ArchiveTensor> tensors;
    const auto add = [&](const std::string& key) {
      ArchiveTensor tensor;
      if (const auto shape = shapes.find(key); shape != shapes.end()) tensor.shape = shape->second;
      tensors.emplace(key, tensor);
    };
    for (const std::string& key : outer) add(key);
    for (int i = 0; i < layers; ++i) {
      for (const std::string& key : layer) add(absl::StrReplaceAll(key, {{"#", absl::StrCat(i)}}));
    }
    return Archive(std::move(tensors), Config(config), "fake.pt");
  }
};

const Keys kMamba2Layer = {"backbone.layers.#.mixer.A_log",         "backbone.layers.#.mixer.in_proj.weight",
                           "backbone.layers.#.mixer.conv1d.weight", "backbone.layers.#.mixer.conv1d.bias",
                           "backbone.layers.#.mixer.dt_bias",       "backbone.layers.#.mixer.D",
                           "backbone.layers.#.mixer.norm.weight",   "backbone.layers.#.mixer.out_proj.weight",
                           "backbone.layers.#.norm.weight"};
const Keys kLlamaLayer = {
    "model.layers.#.self_attn.q_proj.weight", "model.layers.#.self_attn.k_proj.weight",
    "model.layers.#.self_attn.v_proj.weight", "model.layers.#.self_attn.o_proj.weight",
    "model.layers.#.input_layernorm.weight",  "model.layers.#.post_attention_layernorm.weight",
    "model.layers.#.mlp.gate_proj.weight",    "model.layers.#.mlp.up_proj.weight",
    "model.layers.#.mlp.down_proj.weight"};
const Keys kGpt2Layer = {"h.#.ln_1.weight", "h.#.attn.c_attn.weight", "h.#.attn.c_proj.weight",
                         "h.#.ln_2.weight", "h.#.mlp.c_fc.weight",    "h.#.mlp.c_proj.weight"};

Fake Mamba2(const std::string& embedding) {
  return {{embedding, "backbone.norm_f.weight", "lm_head.weight"},
          kMamba2Layer,
          2,
          {{"backbone.layers.0.mixer.A_log", {4}}}};
}
Fake Llama() { return {{"model.embed_tokens.weight", "model.norm.weight"}, kLlamaLayer}; }
Fake Gpt2(const std::string& prefix = "") {
  Fake fake{
      {prefix + "wte.weight", prefix + "wpe.weight"}, {}, 2, {{prefix + "h.0.attn.c_attn.weight", {8, 24}}}};
  for (const std::string& key : kGpt2Layer) fake.layer.push_back(prefix + key);
  return fake;
}
Fake Paper(const std::string& embedding) {
  return {{embedding, "decoder.weight"},
          {"layers.#.attention.Wqkv.weight", "layers.#.attention.out_proj.weight", "layers.#.norm.weight",
           "layers.#.mixer.encoder.weight"}};
}
Fake PaperMamba2() {
  return {{"encoder.weight"},
          {"blocks.#.mamba.A_log", "blocks.#.mamba.in_proj.weight", "blocks.#.mamba.conv1d.weight",
           "blocks.#.mamba.dt_bias", "blocks.#.mamba.D", "blocks.#.mamba.out_proj.weight"},
          2,
          {{"blocks.0.mamba.A_log", {4}}}};
}

void ExpectDetected(const Archive& archive, const std::string& family, const std::string& layout,
                    const std::string& mixer, int64_t layers = 2) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Detection detection, Detect(archive, {}));
  EXPECT_EQ(detection.family, family);
  EXPECT_EQ(detection.layout, layout);
  EXPECT_EQ(detection.mixer, mixer);
  EXPECT_EQ(detection.layers, layers);
}

TEST(DetectTest, EveryLayoutOfThisVersion) {
  ExpectDetected(
      Mamba2("backbone.embedding.weight").Build(R"({"ssm_cfg": {"layer": "Mamba2"}, "n_layer": 2})"),
      "mamba2", "state-spaces", "mamba2");
  ExpectDetected(Mamba2("backbone.embeddings.weight").Build(R"({"model_type": "mamba2"})"), "mamba2",
                 "huggingface", "mamba2");
  ExpectDetected(PaperMamba2().Build(), "mamba2", "paper", "mamba2");
  ExpectDetected(
      Fake{{"tok_embeddings.weight", "norm.weight"},
           {"layers.#.attention.wq.weight", "layers.#.attention.wk.weight", "layers.#.attention.wv.weight",
            "layers.#.attention.wo.weight", "layers.#.attention_norm.weight", "layers.#.ffn_norm.weight",
            "layers.#.feed_forward.w1.weight"},
           12}
          .Build(),
      "llama", "meta", "attention", 12);
  ExpectDetected(Llama().Build(R"({"model_type": "llama", "num_hidden_layers": 2, "sliding_window": null})"),
                 "llama", "huggingface", "attention");
  ExpectDetected(Gpt2().Build(), "gpt2", "huggingface", "attention");
  ExpectDetected(Gpt2("transformer.").Build(R"({"model_type": "gpt2"})"), "gpt2", "huggingface", "attention");
  ExpectDetected(Paper("encoder.weight").Build(R"({"attention_fn": "lin-attention"})"), "linear-attention",
                 "paper", "linear_attention");
  ExpectDetected(Paper("encoder.word_embeddings.weight").Build(R"({"attention_fn": "sm-attention"})"),
                 "softmax-attention", "paper", "attention");
  // As it is saved by this project.
  ExpectDetected(Paper("encoder.weight").Build(R"({"family": "linear-attention", "layout": "paper"})"),
                 "linear-attention", "paper", "linear_attention");
  const auto layers = [](std::vector<std::string> keys) {
    return Fake{{"encoder.weight"}, std::move(keys)}.Build();
  };
  ExpectDetected(layers({"layers.#.attention.Wvqkn.weight", "layers.#.attention.out_proj.weight",
                         "layers.#.norm.weight"}),
                 "norm-attention", "paper", "norm_attention");
  ExpectDetected(
      layers({"layers.#.attention.Wqk.weight", "layers.#.attention.Wv.weight", "layers.#.attention.Wn.weight",
              "layers.#.attention.out_proj.weight", "layers.#.lambd", "layers.#.norm.weight"}),
      "norm-attention", "ssm-benchmark", "norm_attention");
}

TEST(DetectTest, StateSpaceModels) {
  const auto layers = [](const std::string& prefix, const std::vector<std::string>& names) {
    Fake fake{{"encoder.weight"}, {}};
    for (const std::string& name : names) fake.layer.push_back(prefix + name);
    return fake.Build();
  };
  const std::string jax = "encoder.layers_#.";
  ExpectDetected(layers(jax, {"seq.nu_log", "seq.theta_log", "seq.gamma_log", "seq.B_re", "normalize.scale"}),
                 "lru", "paper", "lru");
  ExpectDetected(
      layers(jax, {"seq.nu_log", "seq.theta_log", "seq.gamma_log", "seq.B_re", "normalization.scale"}), "lru",
      "minimal-lru", "lru");
  const std::vector<std::string> s5 = {"seq.Lambda_re", "seq.Lambda_im", "seq.B", "seq.C", "seq.log_step"};
  ExpectDetected(layers(jax, s5), "s5", "paper", "s5");
  std::vector<std::string> s4 = s5;
  s4.emplace_back("seq.P");
  ExpectDetected(layers(jax, s4), "s4", "paper", "s4");
  for (const std::string prefix : {"model.layers.#.layer.layer.kernel.", "s4_layers.#.layer.kernel."}) {
    ExpectDetected(layers(prefix, {"C", "B", "P", "A_real", "A_imag", "inv_dt"}), "s4", "state-spaces", "s4");
    ExpectDetected(layers(prefix, {"C", "B", "A_real", "A_imag", "inv_dt"}), "s4d", "state-spaces", "s4d");
  }
  for (const std::string prefix : {"model.layers.#.layer.kernel.kernel.", "s4_layers.#.kernel.kernel."}) {
    ExpectDetected(layers(prefix, {"C", "B", "P", "inv_w_real", "w_imag", "log_dt"}), "s4", "state-spaces",
                   "s4");
    ExpectDetected(layers(prefix, {"C", "B", "inv_A_real", "A_imag", "log_dt"}), "s4d", "state-spaces",
                   "s4d");
  }
  ExpectDetected(layers("s4_layers.#.kernel.", {"C", "log_dt", "log_A_real", "A_imag"}), "s4d", "minimal",
                 "s4d");
}

TEST(DetectTest, SoftmaxAndLinearAttentionHaveTheSameKeys) {
  EXPECT_THAT(Detect(Paper("encoder.weight").Build(), {}), Refused("attention_fn"));
  EXPECT_THAT(Detect(Paper("encoder.weight").Build(R"({"attention_fn": "norm-attention"})"), {}),
              Refused("norm-attention"));
}

TEST(DetectTest, OverridesWinOverTheCheckpoint) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Detection detection,
                              Detect(Llama().Build(R"({"model_type": "mistral", "heads": 1})"),
                                     Config(R"({"model_type": "llama", "heads": 2})")));
  EXPECT_EQ(detection.settings.Int("heads").value(), 2);
}

TEST(DetectTest, ContradictionsNameBothSides) {
  for (const char* const type :
       {"qwen2", "qwen3", "olmo2", "gemma2", "gpt_oss", "jamba", "gemma", "mamba", "mamba2", "unheard-of"}) {
    EXPECT_THAT(Detect(Llama().Build(absl::StrCat("{\"model_type\": \"", type, "\"}")), {}),
                Refused(absl::StrCat("config.json has model_type \"", type,
                                     "\", but the keys are those of llama (layout huggingface)")));
  }
  EXPECT_THAT(Detect(Gpt2().Build(R"({"model_type": "gpt_bigcode"})"), {}), Refused("those of gpt2"));
  EXPECT_THAT(Detect(Gpt2().Build(R"({"family": "llama"})"), {}), Refused("family \"llama\""));
  EXPECT_THAT(Detect(Mamba2("backbone.embedding.weight").Build(R"({"ssm_cfg": {"layer": "Mamba1"}})"), {}),
              Refused("\"Mamba1\""));
  EXPECT_THAT(Detect(Llama().Build(R"({"num_hidden_layers": 3})"), {}),
              Refused("num_hidden_layers 3, but \"fake.pt\" has 2 layers"));
  EXPECT_THAT(Detect(Llama().Build(R"({"model_type": 5})"), {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("model_type")));
}

TEST(DetectTest, RelativesAreRefusedByNameAndNeverRunAsTheKnownFamily) {
  const std::pair<const char*, const char*> relatives[] = {
      {"model.layers.0.block_sparse_moe.gate.weight", "mixture of experts"},
      {"model.layers.0.mlp.experts.0.up_proj.weight", "mixture of experts"},
  };
  for (const auto& [key, what] : relatives) {
    Fake fake = Llama();
    fake.outer.push_back(key);
    EXPECT_THAT(Detect(fake.Build(), {}), Refused(what)) << key;
  }
  Fake qwen3 = Llama();  // its keys are those of a Llama and two more
  for (const char* key :
       {"model.layers.#.self_attn.q_norm.weight", "model.layers.#.self_attn.k_norm.weight"}) {
    qwen3.layer.push_back(key);
  }
  ExpectDetected(qwen3.Build(), "qwen3", "huggingface", "attention");
  EXPECT_THAT(Detect(qwen3.Build(R"({"model_type": "llama2"})"), {}), Refused("those of qwen3"));
  Fake biased = Llama();  // so are Qwen2's, and those of a Llama with biases, which says so
  for (const char* key : {"model.layers.#.self_attn.q_proj.bias", "model.layers.#.self_attn.k_proj.bias",
                          "model.layers.#.self_attn.v_proj.bias"}) {
    biased.layer.push_back(key);
  }
  ExpectDetected(biased.Build(), "qwen2", "huggingface", "attention");
  ExpectDetected(biased.Build(R"({"model_type": "llama", "attention_bias": true})"), "llama", "huggingface",
                 "attention");
  EXPECT_THAT(Detect(Llama().Build(R"({"sliding_window": 4096})"), {}), Refused("sliding_window"));
  ExpectDetected(Llama().Build(R"({"sliding_window": 4096, "use_sliding_window": false})"), "llama",
                 "huggingface", "attention");
  for (const char* json : {R"({"norm_eps": 1e-5})", R"({"model_type": "mamba2", "fuse_norm": false})"}) {
    ExpectDetected(Mamba2("backbone.embeddings.weight").Build(json), "mamba2", "fla", "mamba2");
  }
  Fake lti = PaperMamba2();
  for (std::string& key : lti.layer) {
    if (key == "blocks.#.mamba.A_log") key = "blocks.#.mamba.A";
  }
  lti.layer.push_back("blocks.#.mamba.beta");
  ExpectDetected(lti.Build(), "mamba2", "paper", "mamba2");
  EXPECT_THAT(Detect(Fake{{"blocks.0.att.time_mix_g", "emb.weight"}, {}}.Build(), {}), Refused("RWKV-5"));
  // A key that several have is not asked before those that one of them has alone.
  const std::pair<Keys, const char*> unwritten[] = {
      {{"model.layers.3.self_attn.kv_a_proj_with_mqa.weight"}, "DeepSeek's latent attention"},
      {{"model.layers.0.self_attn.qkv_proj.weight"}, "Phi-3"},
      {{"model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.self_attn.output_gate.weight"},
       "MiniMax"},
      {{"layers.0.retention.q_proj.weight", "layers.0.retention.out_proj.weight"}, "torchscale's RetNet"},
      {{"model.layers.0.attn.gk_proj.weight"}, "simple GLA"},
      {{"model.layers.0.attn.f_proj.weight", "model.layers.0.attn.f_proj.bias"}, "forgetting transformer"},
      {{"model.layers.0.attn.decay"}, "Comba"},
      {{"transformer.layers.0.attention.query_projection.weight"}, "fast-transformers"},
      {{"layers.0.attention.forget_base"}, "Hawk"},
      {{"layers.0.attention.W_lambda.weight"}, "SELRU"},
      {{"backbone.layers.0.sequence_mixer.Wqk.weight"}, "dsf-mqar"},
      {{"blocks.0.filter.residues"}, "StripedHyena"},
  };
  for (const auto& [keys, what] : unwritten) {
    EXPECT_THAT(Detect(Fake{keys, {}}.Build(), {}), AllOf(Refused(what), Refused("not written yet"))) << what;
  }
  // With the reason, where it is one of principle.
  const std::pair<const char*, const char*> reasons[] = {
      {"backbone.layers.0.mixer.filter_fn.implicit_filter.0.weight",
       "Hyena, which is not supported: no state of finite size"},
      {"backbone.layers.0.mixer.B_bias",
       "Mamba-3, which is not supported: its releases compute the decay in two"},
      {"rnn.weight_hh_l0_reverse",
       "bidirectional LSTM, GRU or RNN, which is not supported: nothing in it runs"},
  };
  for (const auto& [key, why] : reasons) {
    EXPECT_THAT(Detect(Fake{{key, "emb.weight"}, {}}.Build(), {}), Refused(why));
  }
}

// "decay" is Comba's, "decay_rate" would be another's.
TEST(DetectTest, ATelltaleIsAWholePartOfAKey) {
  for (const char* const key : {"model.layers.0.attn.decay_rate", "blocks.0.filter.residues_of_poles"}) {
    EXPECT_THAT(Detect(Fake{{key}, {}}.Build(), {}), Refused("tell none of the known families")) << key;
  }
  EXPECT_THAT(Detect(Fake{{"model.layers.0.attn.decay.weight"}, {}}.Build(), {}), Refused("Comba"));
}

TEST(DetectTest, FamiliesThatAreNotRunAreKnownByTheirTypeToo) {
  const std::pair<const char*, const char*> types[] = {
      {"gsa", "GSA"}, {"mesa_net", "MesaNet"}, {"mamba3", "no checkpoint says in which"}};
  for (const auto& [type, what] : types) {
    EXPECT_THAT(Detect(Llama().Build(absl::StrCat("{\"model_type\": \"", type, "\"}")), {}),
                AllOf(Refused(absl::StrCat("config.json has model_type \"", type, "\"")), Refused(what),
                      Refused("--config takes the model_type they have")));
  }
  EIGSVC_EXPECT_OK(Detect(Llama().Build(R"({"model_type": "gsa"})"), Config(R"({"model_type": "llama"})")));
}

// Whichever layers they are, the first one, too; one that lacks a key of Mamba's may be one of them.
TEST(DetectTest, StateSpacesMayHaveLayersOfAttention) {
  const Keys both = {"backbone.layers.#.norm.weight", "backbone.layers.#.mixer.in_proj.weight",
                     "backbone.layers.#.mixer.out_proj.weight"};
  const std::pair<const char*, Keys> families[] = {
      {"mamba2", {"A_log", "conv1d.weight", "dt_bias", "D"}},
      {"mamba", {"A_log", "conv1d.weight", "x_proj.weight", "dt_proj.weight", "D"}}};
  for (const auto& [family, names] : families) {
    for (const int layer : {0, 1}) {
      Fake hybrid{{"backbone.embedding.weight"}, both};
      for (const std::string& name : names) {
        hybrid.outer.push_back(absl::StrCat("backbone.layers.", layer, ".mixer.", name));
      }
      ExpectDetected(hybrid.Build(R"({"attn_layer_idx": [1]})"), family, "state-spaces",
                     absl::StrCat(family, " + attention"));
    }
  }
}

TEST(DetectTest, Qwen3NextMayHaveExperts) {
  Fake qwen{{"model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight",
             "model.layers.1.mlp.experts.0.gate_proj.weight", "mtp.norm.weight"},
            {"model.layers.#.input_layernorm.weight", "model.layers.#.post_attention_layernorm.weight"}};
  for (const char* const name :
       {"in_proj_qkvz.weight", "in_proj_ba.weight", "conv1d.weight", "A_log", "dt_bias"}) {
    qwen.outer.push_back(absl::StrCat("model.layers.0.linear_attn.", name));
  }
  for (const char* const config : {"{}", R"({"model_type": "qwen3_next"})"}) {
    ExpectDetected(qwen.Build(config), "qwen3_next", "huggingface", "gated_delta_net + attention");
  }
  EXPECT_THAT(Detect(qwen.Build(R"({"model_type": "qwen3_5_moe"})"), {}), Refused("those of qwen3_next"));
}

TEST(DetectTest, Qwen35MayReadImagesToo) {
  const auto qwen = [](const std::string& prefix) {
    Fake fake{
        {prefix + "embed_tokens.weight", prefix + "layers.1.self_attn.q_proj.weight",
         prefix + "layers.1.mlp.experts.0.gate_proj.weight", "model.visual.pos_embed.weight"},
        {prefix + "layers.#.input_layernorm.weight", prefix + "layers.#.post_attention_layernorm.weight"}};
    for (const char* const name : {"in_proj_qkv.weight", "in_proj_z.weight", "in_proj_b.weight",
                                   "in_proj_a.weight", "conv1d.weight", "A_log", "dt_bias"}) {
      fake.outer.push_back(absl::StrCat(prefix, "layers.0.linear_attn.", name));
    }
    return fake;
  };
  for (const char* const prefix : {"model.", "model.language_model."}) {
    for (const char* const type : {"qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"}) {
      ExpectDetected(qwen(prefix).Build(absl::StrCat("{\"model_type\": \"", type, "\"}")), "qwen3_5",
                     "huggingface", "gated_delta_net + attention");
    }
  }
  // The settings of the text come from its part of the configuration, but what is said of the whole wins.
  const Archive whole = qwen("model.language_model.").Build(R"({
      "model_type": "qwen3_5", "tie_word_embeddings": true,
      "text_config": {"model_type": "qwen3_5_text", "tie_word_embeddings": false, "num_hidden_layers": 2}})");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Detection detection, Detect(whole, Config(R"({"hidden_size": 8})")));
  EXPECT_EQ(detection.settings.Int("num_hidden_layers").value_or(0), 2);
  EXPECT_EQ(detection.settings.Int("hidden_size").value_or(0), 8);
  EXPECT_TRUE(detection.settings.Bool("tie_word_embeddings").value_or(false));
  EXPECT_THAT(Detect(whole, Config(R"({"text_config": {"num_hidden_layers": 3}})")),
              Refused("num_hidden_layers 3, but \"fake.pt\" has 2 layers"));
  EXPECT_THAT(Detect(whole, Config(R"({"text_config": 3})")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("text_config")));
}

// Its first layer has all keys of a Llama's.
TEST(DetectTest, KimiLinearHasExpertsAndLatentAttention) {
  const Fake kimi{{"model.embed_tokens.weight", "model.layers.1.self_attn.kv_a_proj_with_mqa.weight",
                   "model.layers.1.self_attn.o_proj.weight", "model.layers.1.input_layernorm.weight",
                   "model.layers.1.post_attention_layernorm.weight"},
                  kLlamaLayer,
                  1};
  Fake published = kimi, held = kimi;
  for (const char* const name : {"A_log", "dt_bias", "f_a_proj.weight", "f_b_proj.weight"}) {
    published.layer.push_back(absl::StrCat("model.layers.#.self_attn.", name));
    held.layer.push_back(absl::StrCat("model.layers.#.self_attn.forget_gate.", name));
  }
  for (const char* const name : {"g_a_proj.weight", "g_b_proj.weight"}) {
    for (Fake* const fake : {&published, &held}) {
      fake->layer.push_back(absl::StrCat("model.layers.#.self_attn.", name));
    }
  }
  for (const char* const name : {"q_conv1d", "k_conv1d", "v_conv1d"}) {
    published.layer.push_back(absl::StrCat("model.layers.#.self_attn.", name, ".weight"));
  }
  held.layer.push_back("model.layers.#.self_attn.conv1d.weight");
  for (const char* const name : {"gate", "experts.0.w1"}) {
    published.outer.push_back(absl::StrCat("model.layers.1.block_sparse_moe.", name, ".weight"));
  }
  held.outer.push_back("model.layers.1.mlp.experts.gate_up_proj");
  for (const char* const config : {"{}", R"({"model_type": "kimi_linear", "num_hidden_layers": 2})"}) {
    ExpectDetected(published.Build(config), "kimi_linear", "moonshot", "kda + attention");
    ExpectDetected(held.Build(config), "kimi_linear", "huggingface", "kda + attention");
  }
  EXPECT_THAT(Detect(published.Build(R"({"model_type": "deepseek_v3"})"), {}),
              Refused("those of kimi_linear"));
}

// Of whichever layers.
TEST(DetectTest, Lfm2IsKnownByItsNorms) {
  for (const char* const type : {"lfm2", "lfm2_moe"}) {
    const Fake lfm2{{"model.embed_tokens.weight", "model.layers.0.conv.conv.weight",
                     "model.layers.1.feed_forward.experts.0.w1.weight"},
                    {"model.layers.#.operator_norm.weight", "model.layers.#.ffn_norm.weight"}};
    ExpectDetected(lfm2.Build(absl::StrCat("{\"model_type\": \"", type, "\"}")), "lfm2", "huggingface",
                   "convolution + attention");
  }
}

TEST(DetectTest, BasedHasALayerOfLinearAttention) {
  for (const std::string prefix : {"", "model."}) {
    Fake based{{prefix + "transformer.embeddings.word_embeddings.weight", "val_metrics.num-tokens.count"},
               {}};
    for (const char* const name :
         {"norm1.weight", "norm2.weight", "mlp.fc1.weight", "mlp.fc2.weight", "mixer.out_proj.weight"}) {
      based.layer.push_back(prefix + "transformer.layers.#." + name);
    }
    EXPECT_FALSE(Detect(based.Build(), {}).ok());
    based.outer.push_back(prefix + "transformer.layers.1.mixer.proj_q.weight");
    based.outer.push_back(prefix + "transformer.layers.1.mixer.proj_k.weight");
    for (const char* const config : {"{}", R"({"model_type": "gpt2"})"}) {
      ExpectDetected(based.Build(config), "based", "hazyresearch",
                     "convolution + linear attention + attention");
    }
  }
}

TEST(DetectTest, LinearAttentionOfFlaMayHaveANormWithoutWeights) {
  Fake linear{{"model.embeddings.weight"},
              {"model.layers.#.attn_norm.weight", "model.layers.#.mlp_norm.weight",
               "model.layers.#.mlp.gate_proj.weight"}};
  for (const char* const name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    linear.layer.push_back(absl::StrCat("model.layers.#.attn.", name, ".weight"));
  }
  ExpectDetected(linear.Build(R"({"model_type": "linear_attn"})"), "linear_attn", "fla", "linear_attention");
  ExpectDetected(linear.Build(R"({"model_type": "retnet"})"), "retnet", "fla", "retention");
  linear.layer.push_back("model.layers.#.attn.norm.weight");
  for (const char* const config : {"{}", R"({"model_type": "linear_attn"})"}) {
    ExpectDetected(linear.Build(config), "linear_attn", "fla", "linear_attention");
  }
}

TEST(DetectTest, LlamasRelativesAreKnownByTheirTypeOrTheirKeys) {
  ExpectDetected(Llama().Build(R"({"model_type": "granite"})"), "granite", "huggingface", "attention");
  for (const char* const type : {"mistral", "ministral"}) {
    ExpectDetected(Llama().Build(absl::StrCat(R"({"model_type": ")", type, R"(", "sliding_window": 8})")),
                   type, "huggingface", "attention");
  }
  Fake olmo = Llama();
  olmo.layer[4] = "model.layers.#.post_feedforward_layernorm.weight";
  for (const char* const key :
       {"model.layers.#.self_attn.q_norm.weight", "model.layers.#.self_attn.k_norm.weight"}) {
    olmo.layer.push_back(key);
  }
  ExpectDetected(olmo.Build(), "olmo2", "huggingface", "attention");
  ExpectDetected(olmo.Build(R"({"model_type": "olmo3", "sliding_window": 8})"), "olmo3", "huggingface",
                 "attention");
  EXPECT_THAT(Detect(olmo.Build(R"({"sliding_window": 8})"), {}), Refused("olmo3"));
  Fake gemma = Llama();
  gemma.layer.push_back("model.layers.#.pre_feedforward_layernorm.weight");
  gemma.layer.push_back("model.layers.#.post_feedforward_layernorm.weight");
  ExpectDetected(gemma.Build(), "gemma2", "huggingface", "attention");
  EXPECT_THAT(Detect(gemma.Build(R"({"model_type": "gemma3_text"})"), {}), Refused("those of gemma2"));
}

TEST(DetectTest, Mamba1IsNotMamba2) {
  Fake fake = Mamba2("backbone.embeddings.weight");
  for (std::string& key : fake.layer) key = absl::StrReplaceAll(key, {{"dt_bias", "dt_proj.weight"}});
  fake.layer.push_back("backbone.layers.#.mixer.x_proj.weight");
  ExpectDetected(fake.Build(), "mamba", "huggingface", "mamba");
  ExpectDetected(fake.Build(R"({"model_type": "falcon_mamba"})"), "falcon-mamba", "huggingface", "mamba");
  ExpectDetected(fake.Build(R"({"model_type": "mamba", "fuse_norm": true})"), "mamba", "fla", "mamba");
  EXPECT_THAT(Detect(fake.Build(R"({"model_type": "mamba2"})"), {}), Refused("those of mamba"));
  fake.layer.push_back("backbone.layers.#.mixer.A_b_log");
  EXPECT_THAT(Detect(fake.Build(), {}), Refused("bidirectional"));
}

TEST(DetectTest, TransposedGpt2IsRefusedWithItsShape) {
  Fake fake = Gpt2("transformer.");
  fake.shapes = {{"transformer.h.0.attn.c_attn.weight", {24, 8}}};
  EXPECT_THAT(Detect(fake.Build(), {}), Refused("[24, 8]"));
}

TEST(DetectTest, QuantisedCheckpointsAreRefused) {
  for (const char* const key : {"model.layers.0.mlp.up_proj.qweight", "x.weight.absmax", "x.weight_scale_inv",
                                "model.layers.0.mlp.experts.gate_up_proj_blocks"}) {
    Fake fake = Llama();
    fake.outer.push_back(key);
    EXPECT_THAT(Detect(fake.Build(), {}), AllOf(Refused("quantised"), Refused(key)));
  }
}

TEST(DetectTest, AMissingKeyIsNamed) {
  Archive archive = Llama().Build();
  absl::btree_map<std::string, ArchiveTensor> tensors = archive.tensors();
  tensors.erase("model.layers.1.self_attn.v_proj.weight");
  EXPECT_THAT(Detect(Archive(tensors, {}, "fake.pt"), {}),
              Refused("2 layers, but lacks \"model.layers.1.self_attn.v_proj.weight\""));
  tensors = archive.tensors();
  tensors.erase("model.layers.0.self_attn.v_proj.weight");
  EXPECT_THAT(Detect(Archive(tensors, {}, "fake.pt"), {}),
              AllOf(Refused("nearest is llama (layout huggingface)"),
                    Refused("lacks \"model.layers.0.self_attn.v_proj.weight\"")));
}

// Which of them is meant is not left to the order of the registry.
TEST(LayoutsTest, OfThoseWithTheSameKeysOneIsNoRelative) {
  const auto same = [](const Layout& a, const Layout& b) {
    return a.embeddings == b.embeddings && a.layer_keys == b.layer_keys &&
           a.some_layer_keys == b.some_layer_keys && a.gates == b.gates && a.settings == b.settings;
  };
  for (const Layout& layout : Layouts()) {
    const auto meant = std::count_if(Layouts().begin(), Layouts().end(), [&](const Layout& other) {
      return same(layout, other) && !other.relative;
    });
    EXPECT_EQ(meant, 1) << layout.family << " " << layout.name;
  }
}

// Not the share of a layout's keys, of which an LSTM's has three.
TEST(DetectTest, TheNearestHasTheMostKeys) {
  Fake fake{{"encoder.weight", "rnn.weight_hh_l0"}, {kLlamaLayer.begin(), kLlamaLayer.begin() + 4}};
  const std::optional<NearestLayout> nearest = FindNearestLayout(fake.Build());
  ASSERT_TRUE(nearest.has_value());
  EXPECT_EQ(nearest->family, "llama");
  const Fake generic{{"encoder.weight"}, {"layers.#.retention.weight"}};
  EXPECT_FALSE(FindNearestLayout(generic.Build()).has_value());
  EXPECT_THAT(Detect(generic.Build(), {}), AllOf(Refused("\"encoder.weight\""), Refused("lstm")));
  // One key of a layer tells more than an embedding that many share.
  const std::optional<NearestLayout> told = FindNearestLayout(
      Fake{{"encoder.weight", "gpt_neox.layers.0.attention.query_key_value.weight"}, {}}.Build());
  ASSERT_TRUE(told.has_value());
  EXPECT_EQ(told->family, "gpt_neox");
}

TEST(DetectTest, NothingInCommonListsTheKnownFamilies) {
  EXPECT_THAT(Detect(Fake{{"conv1.weight", "fc.weight"}, {}}.Build(), {}),
              AllOf(Refused("\"conv1.weight\""), Refused("mamba2"), Refused("llama"), Refused("gpt2"),
                    Refused("softmax-attention")));
}

TEST(DetectTest, OddLayerNumbersEnd) {
  Fake fake = Llama();
  fake.outer.push_back("model.layers.999999.self_attn.q_proj.weight");
  EXPECT_THAT(Detect(fake.Build(), {}), Refused("lacks \"model.layers.2."));
  fake.outer.back() = "model.layers.99999999999999999999.x";
  ExpectDetected(fake.Build(), "llama", "huggingface", "attention");
}

}  // namespace
}  // namespace eigsvc::testing
