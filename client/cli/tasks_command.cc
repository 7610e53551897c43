// `eigsvc tasks`: the tasks a server runs, their parameters and the state of their data.
#include <CLI/App.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/listing.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"

namespace eigsvc::cli {
namespace {

absl::StatusOr<v1::ListTasksResponse> FetchTasks(Session& session) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  absl::StatusOr<v1::ListTasksResponse> response =
      CallUnary<v1::ListTasksResponse>(connection->call_options(), [&](auto* context, auto* queue) {
        return connection->catalog().PrepareAsyncListTasks(context, {}, queue);
      });
  if (!response.ok()) return connection->Explain(response.status());
  return response;
}

Json ParameterObject(const v1::TaskParameterInfo& parameter) {
  Json value = Json::parse(parameter.default_json(), nullptr, /*allow_exceptions=*/false);
  return {{"name", parameter.name()},
          {"type", parameter.type()},
          {"default", value.is_discarded() ? Json() : value},
          {"meaning", parameter.meaning()}};
}

Json ParametersOf(const v1::TaskInfo& task) {
  Json parameters = Json::array();
  for (const v1::TaskParameterInfo& parameter : task.parameters())
    parameters.push_back(ParameterObject(parameter));
  return parameters;
}

// Null where the task makes its own data.
Json DataObject(const v1::TaskInfo& task) {
  if (!task.has_data()) return Json();
  Json files = Json::array();
  for (const v1::TaskFileInfo& file : task.data().files()) {
    files.push_back({{"name", file.name()}, {"checksum", file.checksum()}, {"meaning", file.meaning()}});
  }
  return {{"needed", task.needs_data()},
          {"found", task.data().found_name().empty() ? Json() : Json(task.data().found_name())},
          {"names", std::vector<std::string>(task.data().names().begin(), task.data().names().end())},
          {"files", files},
          {"layout", task.data().layout()}};
}

Json PresetsOf(const v1::TaskInfo& task) {
  Json presets = Json::array();
  for (const v1::TaskPresetInfo& preset : task.presets()) {
    const Json parameters = Json::parse(preset.parameters_json(), nullptr, /*allow_exceptions=*/false);
    presets.push_back({{"name", preset.name()},
                       {"parameters", parameters.is_discarded() ? Json() : parameters},
                       {"meaning", preset.meaning()}});
  }
  return presets;
}

std::string DataStatus(const Json& data) {
  if (data.is_null()) return "-";
  if (!data["found"].is_null()) return absl::StrCat("there, not read: ", CellText(data["found"]));
  return data["needed"] == true ? "missing: --data" : "optional";
}

absl::Status ListTasks(Session& session) {
  EIGSVC_ASSIGN_OR_RETURN(const v1::ListTasksResponse response, FetchTasks(session));
  Listing listing("tasks", {{"name", "task"},
                            {"metric", "metric"},
                            {"data", "data", Table::Align::kLeft, DataStatus},
                            {"summary", "summary"}});
  for (const v1::TaskInfo& task : response.tasks()) {
    listing.Add({{"name", task.name()},
                 {"summary", task.summary()},
                 {"metric", task.metric()},
                 {"needs_data", task.needs_data()},
                 {"data", DataObject(task)},
                 {"presets", PresetsOf(task)},
                 {"parameters", ParametersOf(task)}});
  }
  return session.Write(listing.Render(session.format(), session.style(), "this server runs no tasks"));
}

Listing ParameterListing(const v1::TaskInfo& task) {
  Listing listing("parameters",
                  {{"name", "parameter"}, {"type", "type"}, {"default", "default"}, {"meaning", "meaning"}});
  for (const Json& parameter : ParametersOf(task)) listing.Add(parameter);
  return listing;
}

// For people: what the task is, its data, its presets, its parameters.
std::string DescriptionText(const v1::TaskInfo& task, const Style& style) {
  std::string out = absl::StrCat(style.Apply(Paint::kBold, Printable(task.name())), "  ",
                                 Printable(task.summary()), "\nmetric ", Printable(task.metric()), "\n\n");
  if (const Json data = DataObject(task); !data.is_null()) {
    absl::StrAppend(&out, style.Apply(Paint::kBold, "data"), "  ", Printable(task.data().layout()), "\n");
    if (!data["found"].is_null()) {
      absl::StrAppend(&out, "The server's data root holds ", Printable(CellText(data["found"])),
                      ", which is used without --data; what is in it shows when it is read.\n");
    } else if (!data["names"].empty()) {
      absl::StrAppend(&out, "Give it with --data, or put it under the server's data root as ",
                      Printable(CellText(data["names"])), ".\n");
    } else {
      absl::StrAppend(&out, "Give it with --data.\n");
    }
    Listing files("files", {{"name", "file"}, {"checksum", "checksum"}, {"meaning", "what it is"}});
    for (const Json& file : data["files"]) files.Add(file);
    absl::StrAppend(
        &out, files.Render(Format::kTable, style, ""),
        "--data FILE of a published name must match its checksum; a subset, or a copy changed on purpose, is "
        "read under another name.\n\n");
  }
  if (!task.presets().empty()) {
    Listing presets("presets", {{"name", "--param preset="}, {"meaning", "what it is"}});
    for (const Json& preset : PresetsOf(task)) presets.Add(preset);
    absl::StrAppend(&out, presets.Render(Format::kTable, style, ""), "\n");
  }
  return absl::StrCat(out, ParameterListing(task).Render(Format::kTable, style, "it takes no parameters"));
}

absl::Status DescribeTask(Session& session, const std::string& name) {
  EIGSVC_ASSIGN_OR_RETURN(const v1::ListTasksResponse response, FetchTasks(session));
  std::vector<std::string> known;
  for (const v1::TaskInfo& task : response.tasks()) {
    known.push_back(task.name());
    if (task.name() != name) continue;
    switch (session.format()) {
      case Format::kTable:
        return session.Write(DescriptionText(task, session.style()));
      case Format::kJson: {
        const Json object = {{"schema_version", kSchemaVersion}, {"name", task.name()},
                             {"summary", task.summary()},        {"metric", task.metric()},
                             {"data", DataObject(task)},         {"presets", PresetsOf(task)},
                             {"parameters", ParametersOf(task)}};
        return session.Write(absl::StrCat(object.dump(2, ' ', false, Json::error_handler_t::replace), "\n"));
      }
      default:  // a line a parameter
        return session.Write(
            ParameterListing(task).Render(session.format(), session.style(), "it takes no parameters"));
    }
  }
  return UnknownName("task", name, known);
}

}  // namespace

void AddTasksCommand(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand("tasks", "The tasks a server runs");
  command->callback([&chosen] {
    if (!chosen) chosen = ListTasks;  // a subcommand's callback came first
  });
  command->add_subcommand("list", "All of them (also without a subcommand)")->callback([&chosen] {
    chosen = ListTasks;
  });
  auto name = std::make_shared<std::string>();
  CLI::App* describe =
      command->add_subcommand("describe", "One task: its parameters, presets and the data it reads");
  describe->add_option("name", *name, "Its name")->required();
  describe->callback(
      [&chosen, name] { chosen = [name](Session& session) { return DescribeTask(session, *name); }; });
}

}  // namespace eigsvc::cli
