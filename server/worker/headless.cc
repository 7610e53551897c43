#include "server/worker/headless.h"

#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "eigsvc/v1/analysis_service.pb.h"
#include "models/base/settings.h"
#include "models/base/status_macros.h"
#include "models/base/utf8.h"
#include "server/worker/analysis_job.h"
#include "server/worker/convert.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxMessageBytes = 4096;

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (file.is_open() && !file.bad()) return text;
  return absl::NotFoundError(absl::StrCat("cannot read the request ", path, ": ", std::strerror(errno)));
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  const std::string temporary = absl::StrCat(path, ".tmp.", getpid());
  std::ofstream file(temporary, std::ios::binary);
  file << text << std::flush;
  const bool written = file.good();
  file.close();
  if (written && std::rename(temporary.c_str(), path.c_str()) == 0) return absl::OkStatus();
  const std::string cause = std::strerror(errno);
  std::remove(temporary.c_str());
  return absl::UnavailableError(absl::StrCat("cannot write the result to ", path, ": ", cause));
}

absl::Status FromJson(absl::string_view json, absl::string_view origin, google::protobuf::Message* message) {
  const auto status = google::protobuf::util::JsonStringToMessage({json.data(), json.size()}, message);
  if (status.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(origin, " is not proto3 JSON of ", message->GetTypeName(), ": ",
                   absl::string_view(status.message().data(), status.message().size())));
}

// A reference of CheckpointRef or DataRef as a path.
template <typename Ref>
absl::StatusOr<std::string> LocalPath(const Ref& ref, absl::string_view field) {
  if (ref.source_case() == Ref::kLocalPath) return ref.local_path();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " must be given by local_path: a headless run has no store of names and uploads"));
}

}  // namespace

absl::StatusOr<worker::v1::RunAnalysisRequest> ParseHeadlessRequest(absl::string_view json,
                                                                    absl::string_view origin) {
  EIGSVC_ASSIGN_OR_RETURN(const Settings object, Settings::Parse(json, origin));
  worker::v1::RunAnalysisRequest request;
  if (object.Has("checkpoint")) {  // beside "spec" only in the worker's own request
    EIGSVC_RETURN_IF_ERROR(FromJson(json, origin, &request));
    return request;
  }
  v1::AnalyzeRequest analyze;
  EIGSVC_RETURN_IF_ERROR(FromJson(json, origin, &analyze));
  *request.mutable_spec() = std::move(*analyze.mutable_spec());
  const v1::CheckpointRef& checkpoint = request.spec().checkpoint();
  *request.mutable_checkpoint()->mutable_ref() = checkpoint;
  if (checkpoint.source_case() != v1::CheckpointRef::kInitializer) {
    EIGSVC_ASSIGN_OR_RETURN(*request.mutable_checkpoint()->mutable_path(),
                            LocalPath(checkpoint, "spec.checkpoint"));
  }
  if (request.spec().task().has_data()) {
    EIGSVC_ASSIGN_OR_RETURN(*request.mutable_data_path(),
                            LocalPath(request.spec().task().data(), "spec.task.data"));
  }
  return request;
}

absl::Status RunHeadless(const HeadlessOptions& options, ModelPool& pool,
                         const std::function<void(const v1::AnalysisEvent&)>& on_event,
                         const StopToken& stop) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string json, ReadFile(options.request_path));
  EIGSVC_ASSIGN_OR_RETURN(worker::v1::RunAnalysisRequest request,
                          ParseHeadlessRequest(json, options.request_path));
  if (!options.export_path.empty()) request.set_export_path(options.export_path);

  v1::Analysis analysis;
  analysis.set_analysis_id(request.analysis_id());
  *analysis.mutable_spec() = request.spec();
  analysis.set_attempts(1);
  *analysis.mutable_create_time() = TimestampProto(absl::Now());
  *analysis.mutable_start_time() = analysis.create_time();
  const auto keep = [&](v1::AnalysisEvent event) {
    on_event(event);
    if (event.has_model()) *analysis.mutable_model() = std::move(*event.mutable_model());
    if (event.has_progress()) *analysis.mutable_progress() = std::move(*event.mutable_progress());
    if (event.has_result()) *analysis.mutable_result() = std::move(*event.mutable_result());
  };
  const absl::Status status = RunAnalysisJob(request, pool, keep, stop);
  *analysis.mutable_end_time() = TimestampProto(absl::Now());
  if (status.ok()) {
    analysis.set_state(v1::JOB_STATE_SUCCEEDED);
    analysis.clear_progress();  // the result says all of it
  } else {
    const bool stopped = absl::IsCancelled(status) || absl::IsDeadlineExceeded(status);
    analysis.set_state(stopped ? v1::JOB_STATE_CANCELLED : v1::JOB_STATE_FAILED);
    analysis.mutable_error()->set_code(status.raw_code());
    analysis.mutable_error()->set_message(ToUtf8(status.message(), kMaxMessageBytes));
  }

  std::string text;
  google::protobuf::util::JsonPrintOptions print;
  print.add_whitespace = true;
  if (!google::protobuf::util::MessageToJsonString(analysis, &text, print).ok()) {
    return absl::InternalError("the result cannot be written as JSON (a bug: a string in it is not UTF-8)");
  }
  const absl::Status written = WriteFile(options.output_path, text);
  return status.ok() ? written : status;
}

}  // namespace eigsvc
