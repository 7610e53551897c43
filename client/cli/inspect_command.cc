// `eigsvc inspect`: what a checkpoint is, without running it; here, or at the server named with --server.
#include <unistd.h>

#include <CLI/App.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/flags.h"
#include "client/cli/inspection_view.h"
#include "client/cli/worker_program.h"
#include "models/base/status_macros.h"
#include "server/inspection/inspection.h"

namespace eigsvc::cli {
namespace {

struct InspectFlags {
  std::string path, config, dtype = "float32";
  int64_t steps = 0;
  bool tensors = false;
};

absl::StatusOr<v1::CheckpointInspection> InspectAtServer(Session& session, const InspectFlags& flags,
                                                         const std::string& settings) {
  Progress progress = session.NewProgress();
  v1::InspectCheckpointRequest request;
  EIGSVC_ASSIGN_OR_RETURN(*request.mutable_checkpoint(),
                          ResolveCheckpointArgument(session, flags.path, progress));
  request.mutable_checkpoint()->set_settings_json(settings);
  request.set_dtype(flags.dtype);
  request.set_steps(flags.steps);
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  absl::StatusOr<v1::InspectCheckpointResponse> response =
      CallUnary<v1::InspectCheckpointResponse>(connection->call_options(), [&](auto* context, auto* queue) {
        return connection->catalog().PrepareAsyncInspectCheckpoint(context, request, queue);
      });
  if (!response.ok()) return connection->Explain(response.status());
  return std::move(*response->mutable_inspection());
}

// The family's own words come from eigsvc-worker, which has the families; without it, the bytes speak alone.
absl::StatusOr<v1::CheckpointInspection> InspectHere(Session& session, const InspectFlags& flags,
                                                     const std::string& settings) {
  const std::string worker = WorkerBinary(session.Env("EIGSVC_WORKER"));
  if (access(worker.c_str(), X_OK) != 0) {
    session.Say(absl::StrCat("eigsvc: what the model would be is left out: there is no ", worker,
                             " (EIGSVC_WORKER names another)"));
    return InspectCheckpoint(flags.path, settings, {.on_demand = true});
  }
  std::vector<std::string> arguments = {"inspect", absl::StrCat("--dtype=", flags.dtype),
                                        absl::StrCat("--steps=", flags.steps)};
  if (!settings.empty()) arguments.push_back(absl::StrCat("--config=", settings));
  arguments.insert(arguments.end(), {"--", flags.path});
  return InspectWithWorker(worker, arguments);
}

absl::Status Inspect(Session& session, const InspectFlags& flags) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string settings, ConfigJson(flags.config));
  // EIGSVC_SERVER alone does not send a local file away: looking at it needs no server.
  EIGSVC_ASSIGN_OR_RETURN(const v1::CheckpointInspection inspection,
                          session.globals().server_flag ? InspectAtServer(session, flags, settings)
                                                        : InspectHere(session, flags, settings));
  switch (session.format()) {
    case Format::kTable:
      return session.Write(InspectionTable(flags.path, inspection, flags.tensors, session.style()));
    case Format::kCsv:
      return session.Write(TensorListing(inspection).Render(Format::kCsv, session.style(), ""));
    case Format::kNdjson:
      return session.Write(absl::StrCat(Line(InspectionObject(flags.path, inspection)), "\n"));
    case Format::kJson:
      break;
  }
  return session.Write(absl::StrCat(
      InspectionObject(flags.path, inspection).dump(2, ' ', false, Json::error_handler_t::replace), "\n"));
}

}  // namespace

void AddInspectCommand(CLI::App& app, Command& chosen) {
  CLI::App* command =
      app.add_subcommand("inspect", "What a checkpoint is, without running it; needs no server");
  auto flags = std::make_shared<InspectFlags>();
  command->add_option("path", flags->path, "File or directory; with --server also a name or SHA-256 there")
      ->required();
  command->add_option("--config", flags->config, "Settings the checkpoint lacks: JSON, or a file of it")
      ->type_name("JSON|FILE");
  command->add_option("--dtype", flags->dtype, "Element type that memory is told for")
      ->check(CLI::IsMember({"float32", "float64", "bfloat16", "float16"}))
      ->capture_default_str();
  command->add_option("--steps", flags->steps, "Tell the memory of a sequence of this many steps, too")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 32));
  command->add_flag("--tensors", flags->tensors, "List every tensor");
  command->callback(
      [&chosen, flags] { chosen = [flags](Session& session) { return Inspect(session, *flags); }; });
}

}  // namespace eigsvc::cli
