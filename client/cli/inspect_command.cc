// `eigsvc inspect`: what a checkpoint is, from its bytes alone; here, or at the server named with --server.
#include <CLI/App.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/flags.h"
#include "client/cli/listing.h"
#include "client/cli/number_text.h"
#include "models/base/status_macros.h"
#include "server/inspection/inspection.h"

namespace eigsvc::cli {
namespace {

struct InspectFlags {
  std::string path, config;
  bool tensors = false;
};

absl::StatusOr<v1::CheckpointInspection> InspectAtServer(Session& session, const InspectFlags& flags,
                                                         const std::string& settings) {
  Progress progress = session.NewProgress();
  v1::InspectCheckpointRequest request;
  EIGSVC_ASSIGN_OR_RETURN(*request.mutable_checkpoint(),
                          ResolveCheckpointArgument(session, flags.path, progress));
  request.mutable_checkpoint()->set_settings_json(settings);
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  absl::StatusOr<v1::InspectCheckpointResponse> response =
      CallUnary<v1::InspectCheckpointResponse>(connection->call_options(), [&](auto* context, auto* queue) {
        return connection->catalog().PrepareAsyncInspectCheckpoint(context, request, queue);
      });
  if (!response.ok()) return connection->Explain(response.status());
  return std::move(*response->mutable_inspection());
}

Json TensorObject(const v1::TensorInfo& tensor) {
  return {{"name", tensor.name()},
          {"element_type", tensor.element_type()},
          {"shape", std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end())}};
}

Listing TensorListing(const v1::CheckpointInspection& inspection) {
  Listing listing("tensors", {{"name", "tensor"}, {"element_type", "type"}, {"shape", "shape"}});
  for (const v1::TensorInfo& tensor : inspection.tensors()) listing.Add(TensorObject(tensor));
  return listing;
}

Json InspectionObject(const std::string& path, const v1::CheckpointInspection& inspection) {
  Json tensors = Json::array();
  for (const v1::TensorInfo& tensor : inspection.tensors()) tensors.push_back(TensorObject(tensor));
  const bool known = inspection.problem().empty();
  return {{"schema_version", kSchemaVersion},
          {"path", path},
          {"sha256", inspection.sha256()},
          {"size_bytes", inspection.size_bytes()},
          {"format", inspection.format()},
          {"family", known ? Json(inspection.family()) : Json()},
          {"layout", known ? Json(inspection.layout()) : Json()},
          {"layers", known ? Json(inspection.layers()) : Json()},
          {"parameters", inspection.parameters()},
          {"element_types", std::map<std::string, int64_t>(inspection.element_types().begin(),
                                                           inspection.element_types().end())},
          {"settings", ParsedOrNull(inspection.settings_json())},
          {"problem", known ? Json() : Json(inspection.problem())},
          {"tensors", tensors}};
}

std::string InspectionTable(const InspectFlags& flags, const v1::CheckpointInspection& inspection,
                            const Style& style) {
  std::string out = absl::StrCat(style.Apply(Paint::kBold, Printable(flags.path)), "\n");
  const auto field = [&](absl::string_view label, absl::string_view text) {
    absl::StrAppend(&out, "  ", style.Apply(Paint::kDim, PadRight(label, 12)), Printable(text), "\n");
  };
  if (inspection.problem().empty()) {
    field("model", absl::StrCat(inspection.family(), " (", inspection.layout(), " layout), ",
                                inspection.layers(), inspection.layers() == 1 ? " layer" : " layers"));
  } else {
    field("model", absl::StrCat("not recognised: ", inspection.problem()));
  }
  field("parameters", CountText(inspection.parameters()));
  field("format", absl::StrCat(inspection.format(), ", ", BytesText(inspection.size_bytes())));
  field("sha256", inspection.sha256());
  std::vector<std::string> types;
  for (const auto& [name, count] :
       std::map<std::string, int64_t>(inspection.element_types().begin(), inspection.element_types().end())) {
    types.push_back(absl::StrCat(count, " ", name));
  }
  field("tensors", absl::StrCat(inspection.tensors_size(), ": ", absl::StrJoin(types, ", "),
                                flags.tensors ? "" : "; --tensors lists them"));
  const Json settings = ParsedOrNull(inspection.settings_json());
  std::string label = "settings";
  for (const auto& [key, value] : settings.items()) {
    constexpr size_t kLongest = 60;
    std::string text = Line(value);
    if (text.size() > kLongest) text = absl::StrCat(text.substr(0, kLongest - 3), "...");
    field(label, absl::StrCat(key, " = ", text));
    label.clear();
  }
  if (flags.tensors)
    absl::StrAppend(&out, "\n", TensorListing(inspection).Render(Format::kTable, style, "no tensors"));
  return out;
}

absl::Status Inspect(Session& session, const InspectFlags& flags) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string settings, ConfigJson(flags.config));
  // EIGSVC_SERVER alone does not send a local file away: looking at it needs no server.
  EIGSVC_ASSIGN_OR_RETURN(const v1::CheckpointInspection inspection,
                          session.globals().server_flag ? InspectAtServer(session, flags, settings)
                                                        : InspectCheckpoint(flags.path, settings));
  switch (session.format()) {
    case Format::kTable:
      return session.Write(InspectionTable(flags, inspection, session.style()));
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
  command->add_flag("--tensors", flags->tensors, "List every tensor");
  command->callback(
      [&chosen, flags] { chosen = [flags](Session& session) { return Inspect(session, *flags); }; });
}

}  // namespace eigsvc::cli
