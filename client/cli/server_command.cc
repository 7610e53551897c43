// `eigsvc server info`: versions, limits and workers.
#include <CLI/App.hpp>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/cli/commands.h"
#include "client/cli/listing.h"
#include "models/base/status_macros.h"

namespace eigsvc::cli {
namespace {

Json WorkerObject(const v1::WorkerInfo& worker) {
  return {{"device", worker.device()},
          {"state", worker.state()},
          {"process_id", worker.process_id()},
          {"restart_count", worker.restart_count()},
          {"description", worker.description()}};
}

Listing WorkerListing(const v1::GetServerInfoResponse& info) {
  const auto right = Table::Align::kRight;
  Listing listing("workers", {{"device", "device"},
                              {"state", "state"},
                              {"process_id", "process", right},
                              {"restart_count", "restarts", right},
                              {"description", "description"}});
  for (const v1::WorkerInfo& worker : info.workers()) listing.Add(WorkerObject(worker));
  return listing;
}

Json InfoObject(const v1::GetServerInfoResponse& info) {
  Json workers = Json::array();
  for (const v1::WorkerInfo& worker : info.workers()) workers.push_back(WorkerObject(worker));
  return {{"schema_version", kSchemaVersion},
          {"versions", std::map<std::string, std::string>(info.versions().begin(), info.versions().end())},
          {"private_server", info.private_server()},
          {"draining", info.draining()},
          {"queue_depth", info.queue_depth()},
          {"queue_capacity", info.queue_capacity()},
          {"start_time",
           absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromUnixSeconds(info.start_time().seconds()),
                            absl::UTCTimeZone())},
          {"limits", std::map<std::string, int64_t>(info.limits().begin(), info.limits().end())},
          {"workers", workers}};
}

absl::Status ShowInfo(Session& session) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  const absl::StatusOr<v1::GetServerInfoResponse> info =
      CallUnary<v1::GetServerInfoResponse>(connection->call_options(), [&](auto* context, auto* queue) {
        return connection->catalog().PrepareAsyncGetServerInfo(context, {}, queue);
      });
  if (!info.ok()) return connection->Explain(info.status());
  const Json object = InfoObject(*info);
  switch (session.format()) {
    case Format::kJson:
      return session.Write(absl::StrCat(object.dump(2, ' ', false, Json::error_handler_t::replace), "\n"));
    case Format::kNdjson:
      return session.Write(absl::StrCat(Line(object), "\n"));
    case Format::kCsv:
      return session.Write(WorkerListing(*info).Render(Format::kCsv, session.style(), ""));
    case Format::kTable:
      break;
  }
  const Style& style = session.style();
  std::string out;
  const auto field = [&](absl::string_view label, absl::string_view text) {
    absl::StrAppend(&out, style.Apply(Paint::kDim, PadRight(label, 24)), Printable(text), "\n");
  };
  field("since", CellText(object["start_time"]));
  field("state", info->draining() ? "draining: no new jobs" : "serving");
  field("queue", absl::StrCat(info->queue_depth(), " of ", info->queue_capacity()));
  for (const auto& [name, version] : object["versions"].items()) field(name, CellText(version));
  for (const auto& [name, limit] : object["limits"].items()) field(name, CellText(limit));
  return session.Write(absl::StrCat(
      out, "\n", WorkerListing(*info).Render(Format::kTable, style, "no worker runs: no job will")));
}

}  // namespace

void AddServerCommand(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand("server", "About the server");
  command->require_subcommand(0, 1);
  command->add_subcommand("info", "Versions, limits, queue and workers")->callback([&chosen] {
    chosen = ShowInfo;
  });
}

}  // namespace eigsvc::cli
