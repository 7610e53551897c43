// The recipe of the demo's checkpoint, run as it stands: at least 0.95 within ten minutes on two cores (`make
// test-full`).
#include <fstream>
#include <iterator>

#include "absl/time/clock.h"
#include "models/training/training.h"
#include "models/zoo/registry.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/training/recipe_flags.h"

namespace eigsvc {
namespace {

TEST(RecipeTest, TheDemosRecipeLearnsWithinTenMinutes) {
  std::ifstream file(testing::SourcePath("models/recipes/mqar-mamba2-demo.json"));
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings recipe, Settings::Parse(text, "the recipe"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily(recipe.Text("model").value()));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model,
                              InitializeModel(*family, recipe.Child("config").value(),
                                              recipe.Int("init_seed").value(), LoadOptions()));
  const uint64_t seed = recipe.Int("seed").value();
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const auto task,
      MakeTask(recipe.Text("task").value(), {.parameters = recipe.Child("param").value(), .seed = seed}));
  TrainingOptions options = testing::OptionsOf(recipe);
  options.stop_at_score = 0.95;
  const StopToken ten_minutes(absl::Now() + absl::Minutes(10));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const TrainingResult result,
                              RunTraining(*model, *task, options, nullptr, ten_minutes));
  EXPECT_GE(result.best.value, 0.95);
  RecordProperty("steps", static_cast<int>(result.steps));
  RecordProperty("seconds", static_cast<int>(absl::ToDoubleSeconds(result.total_time)));
}

}  // namespace
}  // namespace eigsvc
