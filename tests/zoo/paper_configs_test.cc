// The recipes make the models of the 39 configurations released with arXiv 2510.09379: as many parameters as
// its code's, and they run. WikiText's have a smaller vocabulary here.
#include <memory>
#include <set>
#include <string>

#include "ATen/CPUGeneratorImpl.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/isfinite.h"
#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "models/recipes/recipes.h"
#include "models/zoo/registry.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

struct Config {
  std::string recipe;
  int64_t parameters;
  bool as_published = false;
};

// Of 50 257 tokens, 50 000 fewer: rows of the embedding and of the head, and of its bias where there is one.
constexpr int64_t kFewer = int64_t{50000} * 1024, kFewerWithBias = kFewer + 50000;

const Config kConfigs[] = {
    {"cifar-10/softmax-attention", 5065610},
    {"cifar-10/softmax-attention-conv", 5084810},
    {"cifar-10/linear-attention", 5065610},
    {"cifar-10/linear-attention-conv", 5084810},
    {"cifar-10/linear-attention-gating", 6641546},
    {"cifar-10/norm-attention", 4442810},
    {"cifar-10/norm-attention-exp", 4442810},
    {"cifar-10/norm-attention-sigmoid", 4442810},
    {"cifar-10/norm-attention-elu", 4442810},
    {"cifar-10/norm-attention-noconv", 4423610},
    {"cifar-10/norm-attention-gating", 5999546},
    {"cifar-10/mamba2", 6734674},
    {"cifar-10/mamba2-pseudo-lti", 6725458},
    {"cifar-10/s4", 4743178},
    {"cifar-10/lru", 3954826},
    {"imdb/softmax-attention", 1334786},
    {"imdb/linear-attention", 1334786},
    {"imdb/norm-attention", 817698},
    {"imdb/mamba2", 354354},
    {"imdb/s4", 413954},
    {"imdb/lru", 283138},
    {"listops/softmax-attention", 994570},
    {"listops/linear-attention", 994570},
    {"listops/norm-attention", 743226},
    {"listops/mamba2", 523858, /*as_published=*/true},
    {"listops/s4", 598410},
    {"listops/lru", 402186},
    {"mqar/softmax-attention", 2295552},
    {"mqar/linear-attention", 2295552},
    {"mqar/norm-attention", 2234116},
    {"mqar/mamba2", 2307078},
    {"mqar/s4", 2434688},
    {"mqar/lru", 2304128},
    {"wikitext-103/softmax-attention", 61450240 - kFewer},
    {"wikitext-103/linear-attention", 61450240 - kFewer},
    {"wikitext-103/norm-attention", 60996704 - kFewer},
    {"wikitext-103/mamba2", 61033697 - kFewerWithBias},
    {"wikitext-103/s4", 67261009 - kFewerWithBias},
    {"wikitext-103/lru", 60975697 - kFewerWithBias},
};

TEST(PaperConfigsTest, HaveAsManyParametersAsThePapersCodeAndRun) {
  const at::NoGradGuard no_grad;
  Random random({1});
  const at::Tensor tokens = testing::RandomTokens(random, 1, 5, 2),
                   values = testing::NormalTensor(random, {1, 5, 1});
  std::set<std::string> names;
  for (const Config& config : kConfigs) {
    SCOPED_TRACE(config.recipe);
    names.insert(config.recipe);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings recipe,
                                ResolveRecipe(config.recipe, "paper", config.as_published));
    EIGSVC_ASSERT_OK_AND_ASSIGN(Settings settings, recipe.Child("config"));
    if (absl::StartsWith(config.recipe, "wikitext")) {
      settings.Set("vocab_size", int64_t{257});
      settings.Set("output_dim", int64_t{257});
    }
    EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily(recipe.Text("model").value()));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, InitializeModel(*family, settings, 1, {}));
    EXPECT_EQ(model->description().parameters, config.parameters);
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        const at::Tensor logits,
        model->Forward(model->weights(), model->description().vocab_size > 0 ? tokens : values));
    EXPECT_TRUE(at::isfinite(logits).all().item<bool>());
  }
  for (const RecipeInfo& recipe : Recipes()) EXPECT_TRUE(names.contains(recipe.name)) << recipe.name;
}

// An attention that gives nothing leaves its block nothing else to drop.
TEST(PaperConfigsTest, TheNetworkDropsInTraining) {
  const at::NoGradGuard no_grad;
  const Settings settings = *Settings::Parse(
      R"({"layout": "paper", "vocab_size": 16, "hidden_dim": 24, "num_heads": 2, "mixer": "mlp", "dropout": 0.3})",
      "a test's settings");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily("softmax-attention"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, InitializeModel(*family, settings, 1, {}));
  const ModelWeights weights = model->weights().Clone(/*requires_grad=*/false);
  const Weights& layer = weights.layers.at(1);
  for (const char* const rest : {"weight", "bias"}) {
    at::Tensor output = layer[std::string("attention.out_proj.") + rest];
    output.zero_();
  }
  Random random({2});
  const at::Tensor x = testing::NormalTensor(random, {2, 9, 24}).to(at::kFloat);
  TrainingMode training{at::make_generator<at::CPUGeneratorImpl>(1)};
  LayerContext context;
  context.training = &training;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor trained, model->Layer(1, layer, x, nullptr, context));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor used, model->Layer(1, layer, x, nullptr, {}));
  EXPECT_FALSE(at::equal(trained, used));
}

}  // namespace
}  // namespace eigsvc
