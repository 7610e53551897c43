// `eigsvc checkpoints`: what a server holds, to and from it.
#include <CLI/App.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/download.h"
#include "client/cli/exit_code.h"
#include "client/cli/listing.h"
#include "client/cli/number_text.h"
#include "client/cli/upload.h"
#include "models/base/status_macros.h"

namespace eigsvc::cli {
namespace {

constexpr absl::string_view kCheckpointsNeedServer = "checkpoints are kept by a server";
constexpr int kCheckpointsAtOnce = 200;

absl::Status ListCheckpoints(Session& session) {
  EIGSVC_RETURN_IF_ERROR(session.RequireNamedServer(kCheckpointsNeedServer));
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  Listing listing("checkpoints", {{"name", "name"},
                                  {"sha256", "sha256"},
                                  {"size_bytes", "size", Table::Align::kRight,
                                   [](const Json& v) { return BytesText(v.get<int64_t>()); }},
                                  {"directory", "kind", Table::Align::kLeft,
                                   [](const Json& v) { return v == true ? "directory" : "file"; }}});
  v1::ListCheckpointsRequest request;
  request.set_page_size(kCheckpointsAtOnce);
  do {
    const absl::StatusOr<v1::ListCheckpointsResponse> response =
        CallUnary<v1::ListCheckpointsResponse>(connection->call_options(), [&](auto* context, auto* queue) {
          return connection->catalog().PrepareAsyncListCheckpoints(context, request, queue);
        });
    if (!response.ok()) return connection->Explain(response.status());
    for (const v1::Checkpoint& checkpoint : response->checkpoints()) {
      listing.Add({{"name", checkpoint.name()},
                   {"sha256", checkpoint.sha256()},
                   {"size_bytes", checkpoint.size_bytes()},
                   {"directory", checkpoint.directory()}});
    }
    request.set_page_token(response->next_page_token());
  } while (!request.page_token().empty());
  return session.Write(listing.Render(session.format(), session.style(), "this server holds no checkpoints"));
}

absl::Status Upload(Session& session, const std::string& path) {
  EIGSVC_RETURN_IF_ERROR(session.RequireNamedServer(kCheckpointsNeedServer));
  EIGSVC_ASSIGN_OR_RETURN(UploadSource source, CheckpointFiles(path));
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  Progress progress = session.NewProgress();
  EIGSVC_ASSIGN_OR_RETURN(const Uploaded uploaded,
                          UploadCheckpoint(*connection, std::move(source), progress));
  progress.Finish();
  if (uploaded.existed) session.Say("eigsvc: the server has it already");
  const Json object = {{"sha256", uploaded.sha256}, {"existed", uploaded.existed}};
  const bool json = session.format() == Format::kJson || session.format() == Format::kNdjson;
  return session.Write(absl::StrCat(json ? Line(object) : uploaded.sha256, "\n"));
}

absl::Status Download(Session& session, const std::string& sha256, const std::string& out) {
  EIGSVC_RETURN_IF_ERROR(session.RequireNamedServer(kCheckpointsNeedServer));
  EIGSVC_RETURN_IF_ERROR(CheckWritable(out));
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  Progress progress = session.NewProgress();
  return DownloadCheckpoint(*connection, sha256, out, progress);
}

}  // namespace

void AddCheckpointsCommand(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand("checkpoints", "Checkpoints a server holds: list, upload, download");
  command->require_subcommand(0, 1);
  struct Flags {
    std::string path, sha256, out;
  };
  auto flags = std::make_shared<Flags>();
  command->add_subcommand("list", "Those under its root, then uploads")->callback([&chosen] {
    chosen = ListCheckpoints;
  });
  CLI::App* upload = command->add_subcommand("upload", "Send a file or directory; prints its SHA-256");
  upload->add_option("path", flags->path, "File or directory here")->required();
  upload->callback(
      [&chosen, flags] { chosen = [flags](Session& session) { return Upload(session, flags->path); }; });
  CLI::App* download = command->add_subcommand("download", "Fetch an uploaded or trained checkpoint");
  download->add_option("sha256", flags->sha256, "Its SHA-256")->required();
  download->add_option("--out", flags->out, "Where it goes")->required()->type_name("FILE");
  download->callback([&chosen, flags] {
    chosen = [flags](Session& session) { return Download(session, flags->sha256, flags->out); };
  });
}

}  // namespace eigsvc::cli
