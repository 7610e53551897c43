// Every recipe at every scale: its model is built, draws a batch of its task and takes a step, both at a tiny
// size.
#include "models/recipes/recipes.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "models/base/random.h"
#include "models/base/status_macros.h"
#include "models/training/training.h"
#include "models/zoo/registry.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/training/recipe_flags.h"

namespace eigsvc {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// A little data of each task's layout; the tokenizers are the real ones.
std::string DataOf(const std::string& task) {
  if (task == "mqar" || task == "listops") return "";
  const std::string root = absl::StrCat(::testing::TempDir(), "recipes_", task);
  fs::remove_all(root);
  fs::create_directories(root);
  const std::string text = "It was a fine day , and nobody had said otherwise . \n";
  Random random({4});
  if (task == "imdb") {
    for (const char* folder : {"train/pos", "train/neg", "test/pos", "test/neg"}) {
      fs::create_directories(absl::StrCat(root, "/", folder));
      for (const char* name : {"0_1.txt", "1_1.txt"})
        WriteFile(absl::StrCat(root, "/", folder, "/", name), text);
    }
  } else if (task == "cifar-10") {
    for (const char* name :
         {"data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"}) {
      std::string records;
      for (int i = 0; i < 4 * 3073; ++i) {
        records.push_back(static_cast<char>(i % 3073 == 0 ? random.Below(10) : random.Below(256)));
      }
      WriteFile(absl::StrCat(root, "/", name, ".bin"), records);
    }
  } else {
    for (const char* part : {"train", "valid", "test"}) {
      std::string article = " \n = Weather = \n \n ";
      for (int i = 0; i < 60; ++i) absl::StrAppend(&article, text, " ");
      WriteFile(absl::StrCat(root, "/wiki.", part, ".tokens"), article);
    }
    for (const char* file :
         {"tokenizers/gpt2/vocab.json", "tokenizers/gpt2/merges.txt", "checkpoints/stories260K/tok512.bin"}) {
      const fs::path source = testing::SharedPath(absl::StrCat("data/", file));
      fs::create_symlink(source, root / source.filename());
    }
  }
  return root;
}

// The sizes of models and data that cost time; everything else is the recipe's own.
Settings Tiny(const Settings& recipe) {
  const std::string task = recipe.Text("task").value();
  Json patch = {{"config", {{"num_layers", 1}, {"hidden_dim", 16}, {"state_dim", 16}}},
                {"steps", 1},
                {"batch_size", 2},
                {"eval_every", 1},
                {"eval_examples", 2},
                {"warmup_steps", 0}};
  if (recipe.Has("config.mixer_dim")) patch["config"]["mixer_dim"] = 16;
  if (task == "mqar") {
    patch["param"] = {{"preset", nullptr}, {"vocab_size", 64}, {"input_seq_len", 16}, {"num_kv_pairs", 2}};
    patch["config"].update({{"vocab_size", 64}, {"output_dim", 64}});
  } else if (task == "listops") {
    patch["param"] = {{"min_length", 10}, {"max_length", 40}, {"max_depth", 3}, {"max_args", 3}};
  } else if (task == "imdb") {
    patch["param"] = {{"min_freq", 1}};
  } else if (task == "wikitext-103") {
    patch["param"] = {{"block_length", 32}, {"mean_over_batches_of", 1}};
  }
  Json flags = recipe.object();
  flags.merge_patch(patch);
  return Settings(std::move(flags), recipe.origin());
}

absl::StatusOr<TrainingResult> Step(const Settings& flags, const std::string& data) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string name, flags.Text("model"));
  EIGSVC_ASSIGN_OR_RETURN(const FamilyEntry* family, FindFamily(name));
  EIGSVC_ASSIGN_OR_RETURN(const Settings config, flags.Child("config"));
  EIGSVC_ASSIGN_OR_RETURN(const Settings parameters, flags.Child("param"));
  EIGSVC_ASSIGN_OR_RETURN(const int64_t seed, flags.Int("init_seed"));
  EIGSVC_ASSIGN_OR_RETURN(const auto model,
                          InitializeModel(*family, config, static_cast<uint64_t>(seed), {}));
  EIGSVC_ASSIGN_OR_RETURN(const std::string task_name, flags.Text("task"));
  EIGSVC_ASSIGN_OR_RETURN(const auto task,
                          MakeTask(task_name, {.parameters = parameters, .seed = 1, .data_path = data}));
  return RunTraining(*model, *task, testing::OptionsOf(flags), nullptr, StopToken());
}

class RecipesStepTest : public ::testing::TestWithParam<std::string> {};

TEST_P(RecipesStepTest, EveryRecipeTakesAStep) {
  EIGSVC_REQUIRE_SHARED();
  const std::string data = DataOf(GetParam());
  for (const RecipeInfo& recipe : Recipes()) {
    if (recipe.name.substr(0, recipe.name.find('/')) != GetParam()) continue;
    for (const std::string& scale : RecipeScales()) {
      for (const bool as_published : {false, true}) {
        if (as_published && (scale != "paper" || recipe.as_published != "differs")) continue;
        SCOPED_TRACE(absl::StrCat(recipe.name, " ", scale, as_published ? " as published" : ""));
        EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings flags, ResolveRecipe(recipe.name, scale, as_published));
        EIGSVC_ASSERT_OK_AND_ASSIGN(const TrainingResult result, Step(Tiny(flags), data));
        EXPECT_EQ(result.steps, 1);
        EXPECT_GT(result.final_loss, 0);
        EXPECT_FALSE(result.sites.empty());
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tasks, RecipesStepTest,
                         ::testing::Values("cifar-10", "imdb", "listops", "mqar", "wikitext-103"),
                         [](const auto& param) {
                           std::string name = param.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace eigsvc
