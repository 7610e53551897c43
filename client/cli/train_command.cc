// `eigsvc train`: a fresh or given model on a task, with its loss, score and spectrum as they move.
#include <CLI/App.hpp>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "client/cli/analysis_json.h"
#include "client/cli/commands.h"
#include "client/cli/download.h"
#include "client/cli/exit_code.h"
#include "client/cli/flags.h"
#include "client/cli/job_run.h"
#include "client/cli/training_run.h"
#include "models/base/job_limits.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/recipes/recipes.h"

namespace eigsvc::cli {
namespace {

// Flags that a recipe cannot give.
bool IsOfRecipes(absl::string_view name) {
  return name == "help" || name == "recipe" || name == "scale" || name == "as-published";
}

struct TrainFlags {
  ModelFlags model;
  TaskFlags task;
  std::optional<int64_t> steps, batch_size, warmup_steps, eval_every, eval_examples;
  std::optional<double> learning_rate, final_learning_rate, weight_decay, gradient_clip, stop_at_score;
  std::optional<double> recurrence_learning_rate, beta2;
  std::string device, out, out_last, recipe, scale;
  bool resume = false, detach = false, decay_recurrence = false, as_published = false;
  absl::Status recipe_status;  // of reading --recipe

  // Unless given: "m.last.safetensors" for "m.safetensors".
  std::string last_path() const {
    if (!out_last.empty()) return out_last;
    std::filesystem::path last(out);
    last.replace_extension(absl::StrCat(".last", last.extension().string()));
    return last.string();
  }
};

// A recipe is a JSON object whose keys are the names of flags (with - or _), `param` an object of parameters.
// It is a file's, FILE.json, or one of those that are built in, by name.
absl::StatusOr<Json> ReadRecipe(const TrainFlags& flags) {
  const std::string& recipe = flags.recipe;
  if (!absl::EndsWith(recipe, ".json")) {
    const absl::StatusOr<Settings> settings =
        ResolveRecipe(recipe, flags.scale.empty() ? "paper" : flags.scale, flags.as_published);
    if (!settings.ok()) {
      return UsageError(absl::StrCat("--recipe: ", std::string(settings.status().message()),
                                     "; or name a file, FILE.json"));
    }
    return Json(settings->object());
  }
  if (!flags.scale.empty() || flags.as_published) {
    return UsageError(absl::StrCat(
        "--scale and --as-published go with a recipe's name (`eigsvc recipes`), not with ", recipe));
  }
  EIGSVC_ASSIGN_OR_RETURN(const std::string content, ReadTextFile("--recipe", recipe));
  Json object = Json::parse(content, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return UsageError(absl::StrCat("--recipe: ", recipe, " holds no JSON object"));
  return object;
}

// A flag on the command line wins over the recipe.
absl::Status ApplyRecipe(CLI::App& command, const TrainFlags& flags) {
  if (flags.recipe.empty()) {
    if (flags.scale.empty() && !flags.as_published) return absl::OkStatus();
    return UsageError("--scale and --as-published go with --recipe NAME (`eigsvc recipes`)");
  }
  const std::string& path = flags.recipe;
  EIGSVC_ASSIGN_OR_RETURN(const Json recipe, ReadRecipe(flags));
  const bool start_given =
      command.get_option("--checkpoint")->count() + command.get_option("--model")->count() > 0;
  std::vector<std::string> known;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      if (!IsOfRecipes(name)) known.push_back(name);
    }
  }
  for (const auto& [key, value] : recipe.items()) {
    const std::string name = absl::StrReplaceAll(key, {{"_", "-"}});
    CLI::Option* option = command.get_option_no_throw(absl::StrCat("--", name));
    if (option == nullptr || IsOfRecipes(name)) {
      return UsageError(
          absl::StrCat("--recipe ", path, ": ", std::string(UnknownName("key", key, known).message())));
    }
    // What training starts from is one choice: a start on the command line replaces the recipe's as a whole.
    const bool of_start = name == "checkpoint" || name == "model" || name == "init-seed" || name == "config";
    if (option->count() > 0 || (of_start && start_given)) continue;
    try {
      if (name == "param" && value.is_object()) {
        for (const auto& [parameter, setting] : value.items()) {
          option->add_result(absl::StrCat(parameter, "=", Line(setting)));
        }
      } else {
        option->add_result(value.is_string() ? value.get<std::string>() : Line(value));
      }
      if (option->count() > 0) option->run_callback();
    } catch (const CLI::ParseError& error) {
      return UsageError(absl::StrCat("--recipe ", path, ": ", error.what()));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckFlags(const Session& session, const TrainFlags& flags) {
  if (flags.resume && flags.model.checkpoint.empty()) {
    return UsageError(
        "--resume goes on from the last checkpoint of a run: name it with --checkpoint "
        "NAME.last.safetensors");
  }
  if (flags.detach) {
    EIGSVC_RETURN_IF_ERROR(session.RequireNamedServer("--detach leaves the job to a server"));
    if (!flags.out.empty()) {
      return UsageError(
          "--detach does not wait for --out; fetch it later with `eigsvc checkpoints download`");
    }
    return absl::OkStatus();
  }
  if (flags.out.empty()) return UsageError("say where the trained checkpoint goes: --out FILE.safetensors");
  for (const auto& [flag, path] :
       {std::pair("--out", flags.out), std::pair("--out-last", flags.last_path())}) {
    if (std::filesystem::path(path).extension() != ".safetensors") {
      return UsageError(
          absl::StrCat(flag, " writes safetensors: name a file ending in .safetensors, not ", path));
    }
    EIGSVC_RETURN_IF_ERROR(CheckWritable(path));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::TrainingSpec> ToSpec(Session& session, const TrainFlags& flags, Progress& progress) {
  v1::TrainingSpec spec;
  EIGSVC_ASSIGN_OR_RETURN(*spec.mutable_task(), ResolveTask(session, flags.task, progress));
  EIGSVC_ASSIGN_OR_RETURN(*spec.mutable_start(), ResolveCheckpoint(session, flags.model, progress));
  if (flags.steps.has_value()) spec.set_steps(*flags.steps);
  if (flags.batch_size.has_value()) spec.set_batch_size(*flags.batch_size);
  if (flags.learning_rate.has_value()) spec.set_learning_rate(*flags.learning_rate);
  if (flags.final_learning_rate.has_value()) spec.set_final_learning_rate(*flags.final_learning_rate);
  if (flags.warmup_steps.has_value()) spec.set_warmup_steps(*flags.warmup_steps);
  if (flags.weight_decay.has_value()) spec.set_weight_decay(*flags.weight_decay);
  if (flags.recurrence_learning_rate.has_value()) {
    spec.set_recurrence_learning_rate(*flags.recurrence_learning_rate);
  }
  spec.set_decay_recurrence(flags.decay_recurrence);
  if (flags.beta2.has_value()) spec.set_beta2(*flags.beta2);
  if (flags.gradient_clip.has_value()) spec.set_gradient_clip(*flags.gradient_clip);
  if (flags.eval_every.has_value()) spec.set_eval_every(*flags.eval_every);
  if (flags.eval_examples.has_value()) spec.set_eval_examples(*flags.eval_examples);
  if (flags.stop_at_score.has_value()) spec.set_stop_at_score(*flags.stop_at_score);
  spec.set_resume(flags.resume);
  spec.set_device(flags.device);
  return spec;
}

// Fetches the checkpoints that there are: the best to --out, the last beside it.
absl::Status Fetch(Session& session, const TrainFlags& flags, const std::string& best_sha256,
                   const std::string& last_sha256, Progress& progress) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  if (!best_sha256.empty()) {
    EIGSVC_RETURN_IF_ERROR(DownloadCheckpoint(*connection, best_sha256, flags.out, progress));
  }
  if (last_sha256.empty()) return absl::OkStatus();
  return DownloadCheckpoint(*connection, last_sha256, flags.last_path(), progress);
}

// A run that was cancelled, came late or failed may have left its checkpoints, and a private server takes
// them away with it.
void FetchLeftovers(Session& session, const TrainFlags& flags, const std::string& id, Progress& progress) {
  constexpr absl::Duration kPatience = absl::Seconds(5);
  const absl::StatusOr<v1::Training> left = AwaitEnd<TrainingKind>(session, id, kPatience);
  if (!left.ok() || left->last_sha256().empty()) return;
  const absl::Status fetched = Fetch(session, flags, left->best_sha256(), left->last_sha256(), progress);
  progress.Finish();
  if (!fetched.ok()) {
    session.Say(absl::StrCat("eigsvc: the run left a checkpoint, which did not arrive: ",
                             std::string(fetched.message())));
    return;
  }
  session.Say(absl::StrCat("eigsvc: kept ", flags.last_path(), "; go on from it with --checkpoint ",
                           flags.last_path(), " --resume",
                           left->best_sha256().empty() ? "" : absl::StrCat("; best so far: ", flags.out)));
}

absl::Status Train(Session& session, const TrainFlags& flags) {
  EIGSVC_RETURN_IF_ERROR(flags.recipe_status);
  EIGSVC_RETURN_IF_ERROR(CheckFlags(session, flags));
  Progress progress = session.NewProgress();
  EIGSVC_ASSIGN_OR_RETURN(const v1::TrainingSpec spec, ToSpec(session, flags, progress));
  if (flags.detach) {
    progress.Finish();
    return DetachJob<TrainingKind>(session, spec);
  }
  v1::Training training;
  const absl::Status status = RunJob(session, TrainingKind{session.style()}, spec, progress, &training);
  if (!status.ok()) {
    const bool leaves_at_once = Interrupt::count() > 1;
    if (!training.training_id().empty() && !leaves_at_once)
      FetchLeftovers(session, flags, training.training_id(), progress);
    return status;
  }
  const v1::TrainingResult& result = training.result();
  EIGSVC_RETURN_IF_ERROR(Fetch(session, flags, result.best_sha256(), result.last_sha256(), progress));
  progress.Finish();
  if (result.best_sha256().empty()) {
    session.Say(absl::StrCat("eigsvc: no evaluation beat the best of the run before; ", flags.out,
                             " is left as it was"));
  }
  return WriteTraining(session, training, result.best_sha256().empty() ? "" : flags.out,
                       result.last_sha256().empty() ? "" : flags.last_path());
}

// As CLI::Range, which would write 0 for the least rate and 1 for the largest beta2.
CLI::Validator RealRange(double low, double high) {
  const std::string range = absl::StrFormat("[%.12g - %.12g]", low, high);
  return CLI::Validator(
      [low, high, range](std::string& text) -> std::string {
        double value = 0;
        if (absl::SimpleAtod(text, &value) && value >= low && value <= high) return "";
        return absl::StrCat("Value ", text, " not in range ", range);
      },
      absl::StrCat("FLOAT in ", range));
}

}  // namespace

void AddTrainCommand(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand("train", "Train a model on a task; write its checkpoint");
  auto flags = std::make_shared<TrainFlags>();
  AddModelFlags(*command, flags->model);
  AddTaskFlags(*command, flags->task, /*with_split=*/false);
  const CLI::Range steps(int64_t{1}, kMaxTrainingSteps), rate(0.0, kMaxLearningRate);
  command->add_option("--out", flags->out, "Where the best checkpoint goes")->type_name("FILE.safetensors");
  command->add_option("--out-last", flags->out_last,
                      "Where the last one goes, to resume from (OUT.last.safetensors)");
  command->add_option("--steps", flags->steps, "Optimiser steps (1000)")->check(steps);
  command->add_option("--batch-size", flags->batch_size, "Examples a step (64)")
      ->check(CLI::Range(int64_t{1}, kMaxBatchSize));
  command->add_option("--learning-rate", flags->learning_rate, "Peak learning rate (0.001)")
      ->check(RealRange(kMinLearningRate, kMaxLearningRate));
  command
      ->add_option("--final-learning-rate", flags->final_learning_rate,
                   "At the end of the cosine, at most --learning-rate (0)")
      ->check(rate);
  command->add_option("--warmup-steps", flags->warmup_steps, "Steps of linear warm-up, at most --steps (0)")
      ->check(CLI::Range(int64_t{0}, kMaxTrainingSteps));
  command->add_option("--weight-decay", flags->weight_decay, "Decoupled weight decay (0.1)")
      ->check(CLI::Range(0.0, kMaxWeightDecay));
  command
      ->add_option("--recurrence-learning-rate", flags->recurrence_learning_rate,
                   "Peak of what the eigenvalues are made of, from 1e-12; 0: --learning-rate (0)")
      ->check(rate);
  command->add_flag("--decay-recurrence", flags->decay_recurrence, "Weight decay shrinks those too");
  command->add_option("--beta2", flags->beta2, "AdamW's decay rate of the second moment (0.999)")
      ->check(RealRange(0, kMaxBeta2));
  command->add_option("--gradient-clip", flags->gradient_clip, "Global norm of gradients; 0: off (1)")
      ->check(CLI::Range(0.0, kMaxGradientClip));
  command->add_option("--eval-every", flags->eval_every, "Steps between evaluations (200)")->check(steps);
  command->add_option("--eval-examples", flags->eval_examples, "Examples of an evaluation (512)")
      ->check(CLI::Range(int64_t{1}, kMaxJobExamples));
  command
      ->add_option("--stop-at-score", flags->stop_at_score, "End once the accuracy reaches it; 0: never (0)")
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--device", flags->device, "cpu, cuda:0, ... (any worker)");
  command->add_flag("--resume", flags->resume,
                    "Restore optimiser and step from --checkpoint, a run's last one");
  command
      ->add_option(
          "--recipe", flags->recipe,
          "These flags by a name of `eigsvc recipes`, or a JSON object of them; the command line wins")
      ->type_name("NAME|FILE.json");
  command->add_option("--scale", flags->scale, "Of a recipe by name: paper, gpu or small (paper)");
  command->add_flag("--as-published", flags->as_published,
                    "The recipe as its paper's configuration had it, mistakes included");
  command->add_flag("--detach", flags->detach, "Print the job's id and leave it to the server");
  // Here the parser still lives, whose options the recipe sets.
  command->callback([&chosen, flags, command] {
    flags->recipe_status = ApplyRecipe(*command, *flags);
    chosen = [flags](Session& session) { return Train(session, *flags); };
  });
}

}  // namespace eigsvc::cli
