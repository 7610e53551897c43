#include "models/recipes/recipes.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/status_util.h"
#include "models/recipes/recipe_files.h"

namespace eigsvc {
namespace {

using Json = nlohmann::json;

constexpr absl::string_view kModels = "models";  // the file of what recipes of a model share
constexpr const char* kParts[] = {"paper", "gpu", "small", "as-published"};

// The files are part of the program: a test parses each, and none is missing here.
const Json& File(absl::string_view name) {
  static const auto* const files = [] {
    auto* parsed = new std::vector<std::pair<std::string, Json>>;
    for (const RecipeFile& file : RecipeFiles()) {
      parsed->emplace_back(file.name, Json::parse(file.json, nullptr, /*allow_exceptions=*/false));
    }
    return parsed;
  }();
  static const auto* const none = new Json(Json::object());
  for (const auto& [known, json] : *files) {
    if (known == name && json.is_object()) return json;
  }
  return *none;
}

Json Part(const Json& object, absl::string_view key) {
  const auto found = object.find(key);
  return found == object.end() ? Json::object() : *found;
}

}  // namespace

std::vector<std::string> RecipeScales() { return {"paper", "gpu", "small"}; }

std::vector<RecipeInfo> Recipes() {
  std::vector<RecipeInfo> recipes;
  for (const RecipeFile& file : RecipeFiles()) {
    const Json& task = File(file.name);
    const Json of_task = Part(task, "recipes");
    for (const auto& [model, recipe] : of_task.items()) {
      Json published = Part(Part(File(kModels), recipe.value("of", model)), "as-published");
      published.merge_patch(Part(recipe, "as-published"));
      recipes.push_back({absl::StrCat(file.name, "/", model), task.value("about", ""),
                         published.empty() ? "" : published.value("refused", "differs")});
    }
  }
  std::sort(recipes.begin(), recipes.end(),
            [](const RecipeInfo& a, const RecipeInfo& b) { return a.name < b.name; });
  return recipes;
}

absl::StatusOr<Settings> ResolveRecipe(absl::string_view name, absl::string_view scale, bool as_published) {
  const std::vector<RecipeInfo> recipes = Recipes();
  const std::vector<std::string> scales = RecipeScales();
  std::vector<std::string> names;
  names.reserve(recipes.size());
  for (const RecipeInfo& recipe : recipes) names.push_back(recipe.name);
  if (std::find(names.begin(), names.end(), name) == names.end()) return UnknownName("recipe", name, names);
  if (std::find(scales.begin(), scales.end(), scale) == scales.end()) {
    return UnknownName("scale of recipes", scale, scales);
  }
  if (as_published && scale != "paper") {
    return absl::InvalidArgumentError(
        absl::StrCat("only the scale \"paper\" was published, not \"", scale, "\""));
  }
  const size_t slash = name.find('/');
  const Json& task = File(name.substr(0, slash));
  const Json recipes_of_task = Part(task, "recipes");
  const Json recipe = Part(recipes_of_task, name.substr(slash + 1));
  // A variant stands on the recipe it is of.
  const std::string base_name = recipe.value("of", std::string(name.substr(slash + 1)));
  const Json base = Part(recipes_of_task, base_name);
  const Json model = Part(File(kModels), base_name);
  Json flags = model;
  for (const char* part : kParts) flags.erase(part);
  const auto patch = [&](absl::string_view part) {
    for (const Json* layer : {&task, &model, &base, &recipe}) flags.merge_patch(Part(*layer, part));
  };
  patch("paper");
  if (scale != "paper") patch(scale);
  if (as_published) {
    const Json published = Part(recipe, "as-published");
    if (published.contains("refused")) {
      return absl::FailedPreconditionError(absl::StrCat(
          "recipe ", name, " cannot be run as published: ", published["refused"].get<std::string>()));
    }
    flags.merge_patch(Part(model, "as-published"));
    flags.merge_patch(published);
  }
  return Settings(std::move(flags), absl::StrCat("recipe ", name));
}

}  // namespace eigsvc
