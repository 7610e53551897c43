// `eigsvc tasks`: the tasks a server runs and their parameters.
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

absl::Status ListTasks(Session& session) {
  EIGSVC_ASSIGN_OR_RETURN(const v1::ListTasksResponse response, FetchTasks(session));
  Listing listing("tasks", {{"name", "task"},
                            {"metric", "metric"},
                            {"needs_data", "data", Table::Align::kLeft,
                             [](const Json& v) { return v == true ? "needed" : "-"; }},
                            {"summary", "summary"}});
  for (const v1::TaskInfo& task : response.tasks()) {
    Json parameters = Json::array();
    for (const v1::TaskParameterInfo& parameter : task.parameters())
      parameters.push_back(ParameterObject(parameter));
    listing.Add({{"name", task.name()},
                 {"summary", task.summary()},
                 {"metric", task.metric()},
                 {"needs_data", task.needs_data()},
                 {"parameters", parameters}});
  }
  return session.Write(listing.Render(session.format(), session.style(), "this server runs no tasks"));
}

absl::Status DescribeTask(Session& session, const std::string& name) {
  EIGSVC_ASSIGN_OR_RETURN(const v1::ListTasksResponse response, FetchTasks(session));
  std::vector<std::string> known;
  for (const v1::TaskInfo& task : response.tasks()) {
    known.push_back(task.name());
    if (task.name() != name) continue;
    Listing listing(
        "parameters",
        {{"name", "parameter"}, {"type", "type"}, {"default", "default"}, {"meaning", "meaning"}});
    for (const v1::TaskParameterInfo& parameter : task.parameters()) listing.Add(ParameterObject(parameter));
    std::string out;
    if (session.format() == Format::kTable) {
      out = absl::StrCat(session.style().Apply(Paint::kBold, Printable(task.name())), "  ",
                         Printable(task.summary()), "\nmetric ", Printable(task.metric()),
                         task.needs_data() ? ", needs --data" : "", "\n\n");
    }
    return session.Write(
        absl::StrCat(out, listing.Render(session.format(), session.style(), "it takes no parameters")));
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
  CLI::App* describe = command->add_subcommand("describe", "One task with its parameters, for --param");
  describe->add_option("name", *name, "Its name")->required();
  describe->callback(
      [&chosen, name] { chosen = [name](Session& session) { return DescribeTask(session, *name); }; });
}

}  // namespace eigsvc::cli
