// `eigsvc recipes`: the trainings that are built in.
#include <CLI/App.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/listing.h"
#include "models/base/status_macros.h"
#include "models/recipes/recipes.h"

namespace eigsvc::cli {
namespace {

struct DescribeFlags {
  std::string name, scale = "paper";
  bool as_published = false;
};

absl::Status ListRecipes(Session& session) {
  Listing listing("recipes", {{"name", "recipe"},
                              {"scales", "scales"},
                              {"about", "at the paper's scale"},
                              {"as_published", "as published"}});
  for (const RecipeInfo& recipe : Recipes()) {
    listing.Add({{"name", recipe.name},
                 {"scales", RecipeScales()},
                 {"about", recipe.about},
                 {"as_published", recipe.as_published.empty() ? "the same" : recipe.as_published}});
  }
  return session.Write(listing.Render(session.format(), session.style(), "there are no recipes"));
}

// The flags, as --recipe FILE.json takes them, whatever the format.
absl::Status DescribeRecipe(Session& session, const DescribeFlags& flags) {
  const absl::StatusOr<Settings> recipe = ResolveRecipe(flags.name, flags.scale, flags.as_published);
  if (!recipe.ok()) return UsageError(std::string(recipe.status().message()));
  return session.Write(absl::StrCat(recipe->object().dump(2), "\n"));
}

}  // namespace

void AddRecipesCommand(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand("recipes", "Trainings by name, for `eigsvc train --recipe`");
  command->callback([&chosen] {
    if (!chosen) chosen = ListRecipes;  // a subcommand's callback came first
  });
  command->add_subcommand("list", "All of them (also without a subcommand)")->callback([&chosen] {
    chosen = ListRecipes;
  });
  auto flags = std::make_shared<DescribeFlags>();
  CLI::App* describe = command->add_subcommand("describe", "The flags that one stands for, as JSON");
  describe->add_option("name", flags->name, "Its name, such as mqar/mamba2")->required();
  describe->add_option("--scale", flags->scale, "paper, gpu or small (paper)");
  describe->add_flag("--as-published", flags->as_published,
                     "As its paper's configuration had it, mistakes included");
  describe->callback(
      [&chosen, flags] { chosen = [flags](Session& session) { return DescribeRecipe(session, *flags); }; });
}

}  // namespace eigsvc::cli
