#include "models/recipes/recipes.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/recipes/recipe_files.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::StatusIs;

TEST(RecipesTest, EveryFileIsAnObjectOfKnownParts) {
  const std::vector<std::string> of_task = {"about", "paper", "gpu", "small", "recipes"},
                                 of_recipe = {"of", "paper", "as-published", "gpu", "small"};
  const auto known = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (const RecipeFile& file : RecipeFiles()) {
    SCOPED_TRACE(file.name);
    const nlohmann::json json = nlohmann::json::parse(file.json, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(json.is_object());
    if (file.name == "models") continue;  // flags, with parts among them
    for (const auto& [part, value] : json.items()) EXPECT_TRUE(known(of_task, part)) << part;
    for (const auto& [name, recipe] : json.at("recipes").items()) {
      for (const auto& [part, value] : recipe.items())
        EXPECT_TRUE(known(of_recipe, part)) << name << " " << part;
      if (recipe.contains("of")) {
        EXPECT_TRUE(json.at("recipes").contains(recipe.at("of").get<std::string>())) << name;
      }
    }
  }
}

TEST(RecipesTest, AreThePapers39AtThreeScales) {
  const std::vector<RecipeInfo> recipes = Recipes();
  EXPECT_EQ(recipes.size(), 39u);
  EXPECT_TRUE(std::is_sorted(recipes.begin(), recipes.end(),
                             [](const RecipeInfo& a, const RecipeInfo& b) { return a.name < b.name; }));
  for (const RecipeInfo& recipe : recipes) {
    for (const std::string& scale : RecipeScales()) {
      SCOPED_TRACE(recipe.name + " " + scale);
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings flags, ResolveRecipe(recipe.name, scale, false));
      EXPECT_EQ(flags.Text("task").value(), recipe.name.substr(0, recipe.name.find('/')));
      for (const char* key : {"steps", "batch_size", "learning_rate", "warmup_steps", "weight_decay",
                              "final_learning_rate", "eval_every", "eval_examples", "seed", "init_seed"}) {
        EXPECT_TRUE(flags.Has(key)) << key;
      }
      EXPECT_LT(flags.Int("warmup_steps").value(), flags.Int("steps").value());
      EXPECT_LE(flags.Int("eval_every").value(), flags.Int("steps").value());
    }
    // What runs on two cores in minutes.
    const Settings small = ResolveRecipe(recipe.name, "small", false).value();
    EXPECT_LE(small.Int("steps").value(), 5000);
    EXPECT_LE(small.Int("config.hidden_dim").value(), 64);
  }
}

TEST(RecipesTest, LaterPartsPatchEarlierOnes) {
  const Settings paper = ResolveRecipe("cifar-10/norm-attention-gating", "paper", false).value();
  EXPECT_EQ(paper.Text("model").value(), "norm-attention");     // models.json
  EXPECT_EQ(paper.Text("config.norm_fn").value(), "softplus");  // the same
  EXPECT_EQ(paper.Int("config.hidden_dim").value(), 512);       // the task
  EXPECT_EQ(paper.Text("config.approx_fn").value(), "none");    // the recipe that it is of
  EXPECT_TRUE(paper.Bool("config.use_gate").value());           // itself
  EXPECT_EQ(paper.Int("config.dim_conv").value(), 0);           // itself, against models.json
  EXPECT_EQ(paper.Int("steps").value(), 45000);
  const Settings small = ResolveRecipe("cifar-10/norm-attention-gating", "small", false).value();
  EXPECT_EQ(small.Int("config.hidden_dim").value(), 64);
  EXPECT_EQ(small.Int("config.dim_conv").value(), 0);
  const Settings mqar = ResolveRecipe("mqar/s4", "small", false).value();
  EXPECT_FALSE(mqar.Has("param.preset"));
  EXPECT_EQ(mqar.Int("config.state_dim").value(), 32);
}

// theory.md 3.4, which says what was wrong in the released configurations.
TEST(RecipesTest, AsPublishedHasThePapersMistakes) {
  const auto both = [](const char* name) {
    return std::pair(ResolveRecipe(name, "paper", false).value(), ResolveRecipe(name, "paper", true).value());
  };
  for (const char* name : {"mqar/softmax-attention", "mqar/linear-attention", "mqar/norm-attention"}) {
    const auto [mended, published] = both(name);
    EXPECT_EQ(mended.Int("warmup_steps").value(), 4000) << name;
    EXPECT_LT(mended.Real("final_learning_rate").value(), 1e-5);
    EXPECT_EQ(published.Int("warmup_steps").value(), 0) << name;  // a constant rate
    EXPECT_EQ(published.Real("final_learning_rate").value(), published.Real("learning_rate").value());
  }
  for (const char* name : {"mqar/lru", "imdb/lru", "cifar-10/lru", "wikitext-103/lru"}) {
    const auto [mended, published] = both(name);
    EXPECT_EQ(mended.Real("recurrence_learning_rate").value(), 1e-3) << name;
    EXPECT_FALSE(mended.Has("decay_recurrence"));
    EXPECT_FALSE(published.Has("recurrence_learning_rate")) << name;
    EXPECT_TRUE(published.Bool("decay_recurrence").value());
  }
  EXPECT_THAT(ResolveRecipe("listops/lru", "paper", true),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("KeyError")));
  // PyTorch's AdamW as the paper calls it decays every parameter.
  for (const char* name : {"mqar/mamba2", "cifar-10/norm-attention-gating"}) {
    const auto [mended, published] = both(name);
    EXPECT_FALSE(mended.Has("decay_recurrence")) << name;
    EXPECT_TRUE(published.Bool("decay_recurrence").value()) << name;
  }
  const auto [same, published] = both("cifar-10/s4");
  EXPECT_EQ(same.ToJson(), published.ToJson());
}

// The JAX trainer's lr_min, and no clipping; the PyTorch trainer's.
TEST(RecipesTest, EachTrainersRatesAndClipping) {
  for (const RecipeInfo& recipe : Recipes()) {
    SCOPED_TRACE(recipe.name);
    const Settings paper = ResolveRecipe(recipe.name, "paper", false).value();
    const std::string model = paper.Text("model").value();
    const bool jax = model == "s4" || model == "lru";
    EXPECT_EQ(paper.Real("final_learning_rate").value(), jax ? 1e-7 : 5e-6);
    EXPECT_EQ(paper.Real("gradient_clip").value_or(1), jax ? 0 : 1);
    const Settings small = ResolveRecipe(recipe.name, "small", false).value();
    EXPECT_EQ(small.Real("final_learning_rate").value(), 5e-6);
    EXPECT_EQ(small.Real("gradient_clip").value_or(1), 1);
    const Settings gpu = ResolveRecipe(recipe.name, "gpu", false).value();
    EXPECT_LT(gpu.Int("steps").value(), paper.Int("steps").value());
  }
}

TEST(RecipesTest, WhatThereIsNotIsNamed) {
  EXPECT_THAT(ResolveRecipe("mqar/mamba3", "paper", false),
              StatusIs(StatusCode::kNotFound, AllOf(HasSubstr("mqar/mamba2"), HasSubstr("wikitext-103/s4"))));
  EXPECT_THAT(ResolveRecipe("mqar", "paper", false), StatusIs(StatusCode::kNotFound, HasSubstr("mqar/lru")));
  EXPECT_THAT(ResolveRecipe("models/s4", "paper", false),
              StatusIs(StatusCode::kNotFound, HasSubstr("unknown recipe")));
  EXPECT_THAT(ResolveRecipe("mqar/mamba2", "tiny", false),
              StatusIs(StatusCode::kNotFound, HasSubstr("paper, gpu, small")));
  EXPECT_THAT(ResolveRecipe("mqar/mamba2", "small", true),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("published")));
}

}  // namespace
}  // namespace eigsvc
