// `eigsvc models`: the families a server runs, and the models it holds loaded.
#include <CLI/App.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/flags.h"
#include "client/cli/listing.h"
#include "client/cli/number_text.h"
#include "models/base/status_macros.h"

namespace eigsvc::cli {
namespace {

struct LoadFlags {
  std::string checkpoint, config, dtype, device, model_id;
};

// "13 cases pass", or which layouts no case has been run of.
std::string ConformanceText(const Json& layouts) {
  int64_t cases = 0;
  std::string without;
  for (const Json& layout : layouts) {
    cases += layout["cases"].get<int64_t>();
    if (layout["cases"] != 0) continue;
    absl::StrAppend(&without, without.empty() ? "; none of " : ", ", layout["layout"].get<std::string>());
  }
  if (cases == 0) return "not compared";
  return absl::StrCat(cases, cases == 1 ? " case passes" : " cases pass", without);
}

absl::Status ListModels(Session& session) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  const absl::StatusOr<v1::ListModelsResponse> response =
      CallUnary<v1::ListModelsResponse>(connection->call_options(), [&](auto* context, auto* queue) {
        return connection->catalog().PrepareAsyncListModels(context, {}, queue);
      });
  if (!response.ok()) return connection->Explain(response.status());
  const auto first_clause = [](const Json& v) {
    const std::string text = CellText(v);
    return text.substr(0, text.find(", "));
  };
  Listing listing("models", {{"name", "family"},
                             {"layouts", "layouts"},
                             {"transition", "eigenvalue of a step", Table::Align::kLeft, first_clause},
                             {"reference", "defined in"},
                             {"conformance", "conformance", Table::Align::kLeft, ConformanceText}});
  for (const v1::ModelFamily& model : response->models()) {
    Json conformance = Json::array();
    for (const v1::LayoutConformance& layout : model.conformance()) {
      // 0 stands for what was not run, and would read as exact.
      const auto found = [](double largest) { return largest == 0 ? Json() : Json(largest); };
      conformance.push_back({{"layout", layout.layout()},
                             {"cases", layout.cases()},
                             {"references", layout.references()},
                             {"logits_float32", found(layout.logits_float32())},
                             {"logits_float64", found(layout.logits_float64())}});
    }
    listing.Add({{"name", model.name()},
                 {"summary", model.summary()},
                 {"layouts", std::vector<std::string>(model.layouts().begin(), model.layouts().end())},
                 {"transition", model.transition()},
                 {"trainable", model.trainable()},
                 {"reference", model.reference()},
                 {"conformance", std::move(conformance)}});
  }
  return session.Write(listing.Render(session.format(), session.style(), "this server runs no models"));
}

absl::Status WriteLoaded(Session& session, const std::vector<v1::LoadedModel>& models) {
  const auto right = Table::Align::kRight;
  Listing listing(
      "loaded_models",
      {{"model_id", "id"},
       {"family", "family"},
       {"layout", "layout"},
       {"parameters", "parameters", right, [](const Json& v) { return CountText(v.get<int64_t>()); }},
       {"size_bytes", "memory", right, [](const Json& v) { return BytesText(v.get<int64_t>()); }},
       {"dtype", "dtype"},
       {"device", "device"},
       {"checkpoint_sha256", "sha256", Table::Align::kLeft,
        [](const Json& v) { return CellText(v).substr(0, 12); }}});
  for (const v1::LoadedModel& loaded : models) {
    const v1::Model& model = loaded.model();
    listing.Add({{"model_id", loaded.model_id()},
                 {"family", model.family()},
                 {"layout", model.layout()},
                 {"parameters", model.parameters()},
                 {"size_bytes", loaded.size_bytes()},
                 {"dtype", model.dtype()},
                 {"device", model.device()},
                 {"checkpoint_sha256", model.checkpoint_sha256()}});
  }
  return session.Write(listing.Render(session.format(), session.style(), "no model is loaded"));
}

absl::Status ListLoaded(Session& session) {
  EIGSVC_RETURN_IF_ERROR(session.RequireNamedServer("a private daemon holds no models between calls"));
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  const absl::StatusOr<v1::ListLoadedModelsResponse> response =
      CallUnary<v1::ListLoadedModelsResponse>(connection->call_options(), [&](auto* context, auto* queue) {
        return connection->catalog().PrepareAsyncListLoadedModels(context, {}, queue);
      });
  if (!response.ok()) return connection->Explain(response.status());
  return WriteLoaded(session, {response->models().begin(), response->models().end()});
}

absl::Status Load(Session& session, const LoadFlags& flags) {
  EIGSVC_RETURN_IF_ERROR(session.RequireNamedServer("a private daemon holds no models between calls"));
  Progress progress = session.NewProgress();
  EIGSVC_ASSIGN_OR_RETURN(const std::string settings, ConfigJson(flags.config));
  v1::LoadModelRequest request;
  EIGSVC_ASSIGN_OR_RETURN(*request.mutable_checkpoint(),
                          ResolveCheckpointArgument(session, flags.checkpoint, progress));
  request.mutable_checkpoint()->set_settings_json(settings);
  request.set_dtype(flags.dtype);
  request.set_device(flags.device);
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  progress.Update({.phase = "load"});
  CallOptions options = connection->call_options();
  options.tick = [&] { progress.Tick(); };
  const absl::StatusOr<v1::LoadModelResponse> response =
      CallUnary<v1::LoadModelResponse>(options, [&](auto* context, auto* queue) {
        return connection->catalog().PrepareAsyncLoadModel(context, request, queue);
      });
  progress.Finish();
  if (!response.ok()) return connection->Explain(response.status());
  return WriteLoaded(session, {response->model()});
}

absl::Status Unload(Session& session, const LoadFlags& flags) {
  EIGSVC_RETURN_IF_ERROR(session.RequireNamedServer("a private daemon holds no models between calls"));
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  v1::UnloadModelRequest request;
  request.set_model_id(flags.model_id);
  const absl::StatusOr<v1::UnloadModelResponse> response =
      CallUnary<v1::UnloadModelResponse>(connection->call_options(), [&](auto* context, auto* queue) {
        return connection->catalog().PrepareAsyncUnloadModel(context, request, queue);
      });
  if (!response.ok()) return connection->Explain(response.status());
  session.Say(absl::StrCat("eigsvc: unloaded ", flags.model_id));
  return absl::OkStatus();
}

}  // namespace

void AddModelsCommand(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand("models", "The families a server runs, and its loaded models");
  auto flags = std::make_shared<LoadFlags>();
  command->callback([&chosen] {
    if (!chosen) chosen = ListModels;  // a subcommand's callback came first
  });
  command->add_subcommand("list", "The families (also without a subcommand)")->callback([&chosen] {
    chosen = ListModels;
  });
  command->add_subcommand("loaded", "What the workers hold, most recently used first")->callback([&chosen] {
    chosen = ListLoaded;
  });
  CLI::App* load = command->add_subcommand("load", "Load a model ahead of its use");
  load->add_option("checkpoint", flags->checkpoint,
                   "A file or directory here, else a name or SHA-256 at the server")
      ->required();
  load->add_option("--config", flags->config, "Settings the checkpoint lacks: JSON, or a file of it")
      ->type_name("JSON|FILE");
  load->add_option("--dtype", flags->dtype, "Element type of the forward pass (float32)")
      ->check(CLI::IsMember({"float32", "float64", "bfloat16", "float16"}));
  load->add_option("--device", flags->device, "cpu, cuda:0, ... (any worker)");
  load->callback([&chosen, flags] { chosen = [flags](Session& session) { return Load(session, *flags); }; });
  CLI::App* unload = command->add_subcommand("unload", "Drop a loaded model");
  unload->add_option("id", flags->model_id, "As `models loaded` shows it")->required();
  unload->callback(
      [&chosen, flags] { chosen = [flags](Session& session) { return Unload(session, *flags); }; });
}

}  // namespace eigsvc::cli
