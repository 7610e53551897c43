#include "server/worker/analysis_job.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "ATen/core/grad_mode.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "models/analysis/analysis.h"
#include "models/analysis/shared_analysis.h"
#include "models/base/status_macros.h"
#include "models/tensor/torch_call.h"
#include "server/worker/convert.h"
#include "server/worker/device_info.h"
#include "server/worker/task_setup.h"

namespace eigsvc {
namespace {

// What a file of eigenvalues needs to be understood on its own; the engine adds its conventions.
absl::btree_map<std::string, std::string> Provenance(const worker::v1::RunAnalysisRequest& request,
                                                     const v1::Model& model, const v1::TaskSpec& task) {
  absl::btree_map<std::string, std::string> metadata = {
      {"analysis_id", request.analysis_id()},
      {"family", model.family()},
      {"layout", model.layout()},
      {"dtype", model.dtype()},
      {"checkpoint_sha256", model.checkpoint_sha256()},
      {"task", task.name()},
      {"task_parameters", task.parameters_json()},
      {"task_seed", absl::StrCat(task.seed())},
      {"task_split", task.split()},
  };
  if (model.has_initial_seed()) metadata["initial_seed"] = absl::StrCat(model.initial_seed());
  for (const auto& [name, version] : Versions()) metadata[absl::StrCat("version.", name)] = version;
  return metadata;
}

absl::Status Run(const worker::v1::RunAnalysisRequest& request, ModelPool& pool,
                 const std::function<void(v1::AnalysisEvent)>& on_event, const StopToken& stop) {
  const at::NoGradGuard no_grad;
  const absl::Time start = absl::Now();
  const v1::AnalysisSpec& spec = request.spec();
  const auto new_event = [&] {
    v1::AnalysisEvent event;
    event.set_analysis_id(request.analysis_id());
    return event;
  };

  // What is wrong with the request alone is said before a large model is loaded for it.
  EIGSVC_RETURN_IF_ERROR(FindTask(spec.task().name()).status());
  AnalysisOptions options;
  EIGSVC_ASSIGN_OR_RETURN(options.split,
                          ParseSplit(spec.task().split().empty() ? "test" : spec.task().split()));
  options.examples = spec.examples();
  options.batch_size = spec.batch_size();
  options.max_steps = spec.max_steps();
  options.weight_by_multiplicity = spec.weight_by_multiplicity();
  options.include_first_step = spec.include_first_step();
  if (spec.has_window()) {
    EIGSVC_ASSIGN_OR_RETURN(options.window, MakeWindow(spec.window().length(), spec.window().stride()));
  }
  EIGSVC_ASSIGN_OR_RETURN(
      options.convention,
      ParseConvention(spec.definition(), {spec.departures().begin(), spec.departures().end()}, spec.gauge(),
                      spec.rotation()));
  EIGSVC_ASSIGN_OR_RETURN(options.precision, ParseSolverPrecision(spec.precision()));
  options.export_path = request.export_path();
  if (request.max_export_bytes() > 0) options.max_export_bytes = request.max_export_bytes();

  v1::AnalysisEvent loading = new_event();
  loading.mutable_progress()->set_phase("load");
  on_event(std::move(loading));
  worker::v1::ResolvedCheckpoint checkpoint = request.checkpoint();
  const TaskRequest sources{.data_path = request.data_path(),
                            .train = options.split == Split::kTrain,
                            .test = options.split == Split::kTest,
                            .stop = &stop};
  EIGSVC_ASSIGN_OR_RETURN(std::shared_ptr<const Task> task,
                          SizeFreshModel(spec.task(), sources, &checkpoint));
  EIGSVC_ASSIGN_OR_RETURN(const ModelPool::Handle model,
                          pool.Acquire(checkpoint, spec.dtype(), stop, spec.residency(), /*whole=*/false));
  v1::AnalysisEvent loaded = new_event();
  *loaded.mutable_model() = model->description;
  on_event(std::move(loaded));

  EIGSVC_ASSIGN_OR_RETURN(
      task, SetUpTask(spec.task(), sources, model->settings, model->model->description(), std::move(task)));
  v1::TaskSpec resolved = spec.task();
  resolved.set_parameters_json(task->parameters().ToJson());
  resolved.set_split(std::string(SplitName(options.split)));
  options.export_metadata = Provenance(request, model->description, resolved);

  const auto on_progress = [&](const AnalysisProgress& progress) {
    v1::AnalysisEvent event = new_event();
    *event.mutable_progress() = ProgressProto(progress);
    on_event(std::move(event));
  };
  std::vector<const ModelWeights*> replicas = {&model->model->weights()};
  if (options.export_path.empty() && options.window.IsStep()) {  // which one device takes
    for (const ModelWeights& replica : model->replicas) replicas.push_back(&replica);
  }
  EIGSVC_ASSIGN_OR_RETURN(
      const AnalysisResult result,
      replicas.size() == 1 ? RunAnalysis(*model->model, *task, options, on_progress, stop)
                           : RunSharedAnalysis(*model->model, replicas, *task, options, on_progress, stop));

  v1::AnalysisEvent ended = new_event();
  *ended.mutable_result() = ResultProto(result);
  *ended.mutable_result()->mutable_task() = std::move(resolved);
  ended.mutable_result()->mutable_versions()->insert(Versions().begin(), Versions().end());
  if (!request.export_path().empty()) {  // what ReadEigenvalues will stream: the file, header included
    std::error_code error;
    const uintmax_t bytes = std::filesystem::file_size(request.export_path(), error);
    ended.mutable_result()->set_eigenvalues_bytes(error ? result.exported_bytes
                                                        : static_cast<int64_t>(bytes));
  }
  *ended.mutable_result()->mutable_total_time() = DurationProto(absl::Now() - start);
  on_event(std::move(ended));
  return absl::OkStatus();
}

}  // namespace

absl::Status RunAnalysisJob(const worker::v1::RunAnalysisRequest& request, ModelPool& pool,
                            const std::function<void(v1::AnalysisEvent)>& on_event, const StopToken& stop) {
  return CallTorch("analysis", [&] { return Run(request, pool, on_event, stop); });
}

}  // namespace eigsvc
