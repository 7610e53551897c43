// `eigsvc analyze`: a checkpoint on a task, its eigenvalues and its score.
#include <CLI/App.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/analysis_json.h"
#include "client/cli/analysis_run.h"
#include "client/cli/commands.h"
#include "client/cli/download.h"
#include "client/cli/exit_code.h"
#include "client/cli/flags.h"
#include "client/cli/job_run.h"
#include "models/base/job_limits.h"
#include "models/base/status_macros.h"
#include "models/base/window.h"

namespace eigsvc::cli {
namespace {

struct AnalyzeFlags {
  ModelFlags model;
  TaskFlags task;
  std::optional<uint64_t> twin, compare_twin;
  int64_t examples = 0, batch_size = 0, max_steps = 0, window = 0, stride = 0;
  std::string dtype, device, residency, weight = "none", definition, gauge, rotation, precision, export_path;
  std::vector<std::string> departures;
  bool include_first_step = false, detach = false, all_sites = false;
};

// "a/b.safetensors" becomes "a/b.twin.safetensors".
std::string TwinPath(const std::string& path) {
  std::filesystem::path twin(path);
  twin.replace_extension(absl::StrCat(".twin", twin.extension().string()));
  return twin.string();
}

absl::Status CheckFlags(const Session& session, const AnalyzeFlags& flags) {
  if (flags.twin.has_value() && flags.compare_twin.has_value()) {
    return UsageError("--twin analyses the twin alone and --compare-twin both: give one");
  }
  if (!flags.departures.empty() && flags.definition != "paper-compat") {
    return UsageError("--compat chooses among the departures of --definition paper-compat: give that, too");
  }
  if (flags.stride > 0 && flags.window == 0)
    return UsageError("--stride says how far apart windows begin: give --window, too");
  if (flags.detach) {
    EIGSVC_RETURN_IF_ERROR(session.RequireNamedServer("--detach leaves the job to a server"));
    if (flags.compare_twin.has_value())
      return UsageError("--detach starts one job: give --twin in a second call instead");
    if (!flags.export_path.empty())
      return UsageError("--detach does not wait for --export; run without one of them");
  }
  if (flags.export_path.empty()) return absl::OkStatus();
  if (std::filesystem::path(flags.export_path).extension() != ".safetensors") {
    return UsageError(absl::StrCat("--export writes safetensors: name a file ending in .safetensors, not ",
                                   flags.export_path));
  }
  return CheckWritable(flags.export_path);
}

absl::StatusOr<v1::AnalysisSpec> ToSpec(Session& session, const AnalyzeFlags& flags, Progress& progress) {
  v1::AnalysisSpec spec;
  // The task first: its mistakes are cheaper to find than an upload is to repeat.
  EIGSVC_ASSIGN_OR_RETURN(*spec.mutable_task(), ResolveTask(session, flags.task, progress));
  EIGSVC_ASSIGN_OR_RETURN(*spec.mutable_checkpoint(), ResolveCheckpoint(session, flags.model, progress));
  if (flags.twin.has_value()) spec.mutable_checkpoint()->set_twin_seed(*flags.twin);
  spec.set_examples(flags.examples);
  spec.set_batch_size(flags.batch_size);
  spec.set_max_steps(flags.max_steps);
  spec.set_dtype(flags.dtype);
  spec.set_device(flags.device);
  spec.set_residency(flags.residency);
  spec.set_weight_by_multiplicity(flags.weight == "multiplicity");
  spec.set_include_first_step(flags.include_first_step);
  if (flags.window > 0) {
    spec.mutable_window()->set_length(flags.window);
    spec.mutable_window()->set_stride(flags.stride > 0 ? flags.stride : flags.window);
  }
  if (flags.definition == "paper-compat") spec.set_definition("PAPER_COMPAT");
  spec.mutable_departures()->Add(flags.departures.begin(), flags.departures.end());
  spec.set_gauge(flags.gauge);
  spec.set_rotation(flags.rotation);
  spec.set_precision(flags.precision);
  spec.set_keep_eigenvalues(!flags.export_path.empty());
  return spec;
}

absl::Status Analyze(Session& session, const AnalyzeFlags& flags) {
  EIGSVC_RETURN_IF_ERROR(CheckFlags(session, flags));
  Progress progress = session.NewProgress();
  EIGSVC_ASSIGN_OR_RETURN(const v1::AnalysisSpec spec, ToSpec(session, flags, progress));
  if (flags.detach) {
    progress.Finish();
    return DetachJob<AnalysisKind>(session, spec);
  }
  const auto run = [&](const v1::AnalysisSpec& of, absl::string_view name,
                       const std::string& export_path) -> absl::StatusOr<v1::Analysis> {
    v1::Analysis analysis;
    EIGSVC_RETURN_IF_ERROR(RunJob(session, AnalysisKind{std::string(name)}, of, progress, &analysis));
    if (!export_path.empty()) {
      EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
      EIGSVC_RETURN_IF_ERROR(DownloadEigenvalues(*connection, analysis.analysis_id(), export_path, progress));
    }
    return analysis;
  };
  Report report;
  report.source = flags.model.checkpoint;
  report.all_sites = flags.all_sites;
  EIGSVC_ASSIGN_OR_RETURN(report.analysis, run(spec, "checkpoint", flags.export_path));
  if (flags.compare_twin.has_value()) {
    v1::AnalysisSpec twin = spec;
    twin.mutable_checkpoint()->set_twin_seed(*flags.compare_twin);
    // The twin answers the very questions the checkpoint did, also where those came from the checkpoint's
    // defaults.
    *twin.mutable_task()->mutable_parameters_json() = report.analysis.result().task().parameters_json();
    EIGSVC_ASSIGN_OR_RETURN(report.twin,
                            run(twin, "twin", flags.export_path.empty() ? "" : TwinPath(flags.export_path)));
  }
  progress.Finish();
  return WriteReport(session, report);
}

}  // namespace

void AddAnalyzeCommand(CLI::App& app, Command& chosen) {
  CLI::App* command =
      app.add_subcommand("analyze", "Run a checkpoint on a task; show its eigenvalues and score");
  auto flags = std::make_shared<AnalyzeFlags>();
  AddModelFlags(*command, flags->model);
  command->add_option("--twin", flags->twin, "Analyse an untrained model of the same architecture")
      ->type_name("SEED")
      ->check(CheckSeed);
  command->add_option("--compare-twin", flags->compare_twin, "Analyse both and show them side by side")
      ->type_name("SEED")
      ->check(CheckSeed);
  AddTaskFlags(*command, flags->task, /*with_split=*/true);
  command->add_option("--examples", flags->examples, "Examples to run (the split's, at most 4096)")
      ->check(CLI::Range(int64_t{0}, kMaxJobExamples));
  command->add_option("--batch-size", flags->batch_size, "Examples at a time (chosen by the worker)")
      ->check(CLI::Range(int64_t{0}, kMaxBatchSize));
  command->add_option("--max-steps", flags->max_steps, "Cut sequences to this many steps")
      ->check(CLI::Range(int64_t{0}, kMaxSequenceSteps));
  command->add_option("--dtype", flags->dtype, "Element type of the forward pass (float32)")
      ->check(CLI::IsMember({"float32", "float64", "bfloat16", "float16"}));
  command->add_option("--device", flags->device, "cpu, cuda:0, ... (any worker)");
  command
      ->add_option("--residency", flags->residency,
                   "Weights held: all, layer (the running one and the next), or auto: all where they fit")
      ->check(CLI::IsMember({"auto", "all", "layer"}));
  command->add_option("--weight", flags->weight, "Weight of an eigenvalue in the statistics")
      ->check(CLI::IsMember({"none", "multiplicity"}))
      ->capture_default_str();
  command->add_flag("--include-first-step", flags->include_first_step,
                    "Count the step that acts on a zero state");
  command
      ->add_option("--window", flags->window,
                   "Eigenvalues of the product of W steps (of every step by itself)")
      ->type_name("W")
      ->check(CLI::Range(int64_t{1}, kMaxWindowLength));
  command->add_option("--stride", flags->stride, "A window every S steps (every W)")
      ->type_name("S")
      ->check(CLI::Range(int64_t{1}, kMaxWindowStride));
  command
      ->add_option("--definition", flags->definition,
                   "Whose transitions: the model's own (exact) or those "
                   "of the analysis released with arXiv 2510.09379 (paper-compat)")
      ->check(CLI::IsMember({"exact", "paper-compat"}));
  command->add_option("--compat", flags->departures, "Departures that paper-compat makes (all that apply)")
      ->type_name("E1,E3,...")
      ->delimiter(',');
  command->add_option("--gauge", flags->gauge, "Normaliser in the state (dsf) or not (raw) (the model's)")
      ->check(CLI::IsMember({"dsf", "raw"}));
  command
      ->add_option("--rotation", flags->rotation, "Rotations in q and k (io) or in the state (the model's)")
      ->check(CLI::IsMember({"io", "state"}));
  command->add_option("--precision", flags->precision, "Of solvers where no closed form exists: S4 (double)")
      ->check(CLI::IsMember({"double", "multi"}));
  command->add_option("--export", flags->export_path, "Write every eigenvalue to this file")
      ->type_name("FILE.safetensors");
  command->add_flag("--all-sites", flags->all_sites, "A table row for every site, however many");
  command->add_flag("--detach", flags->detach, "Print the job's id and leave it to the server");
  command->callback(
      [&chosen, flags] { chosen = [flags](Session& session) { return Analyze(session, *flags); }; });
}

}  // namespace eigsvc::cli
