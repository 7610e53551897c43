#include "server/rpc/catalog.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/status_macros.h"
#include "models/base/utf8.h"
#include "server/jobs/spec_checks.h"

namespace eigsvc {
namespace {

// How long a question that only a running worker can answer waits for one to come up.
constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr absl::Duration kPoll = absl::Milliseconds(20);

bool IsUp(const Worker& worker) {
  const Worker::State state = worker.snapshot().state;
  return state == Worker::State::kIdle || state == Worker::State::kBusy;
}

const char* Name(Worker::State state) {
  switch (state) {
    case Worker::State::kStarting:
      return "starting";
    case Worker::State::kIdle:
      return "idle";
    case Worker::State::kBusy:
      return "busy";
    case Worker::State::kRestarting:
      return "restarting";
  }
  return "unknown";
}

// Named ones by name, then uploads by digest: the order of the list and, as text, of its page tokens.
std::string SortKey(const StoredEntry& entry) {
  return entry.name.empty() ? absl::StrCat("2", entry.sha256) : absl::StrCat("1", entry.name);
}

std::pair<int64_t, int32_t> LastUse(const v1::LoadedModel& model) {
  return {model.last_use_time().seconds(), model.last_use_time().nanos()};
}

}  // namespace

absl::StatusOr<worker::v1::GetCatalogResponse> Catalog::Get(CallControl& control) {
  const absl::Time until = std::min(control.deadline(), absl::Now() + kPatience);
  while (true) {
    std::vector<std::string> problems;
    for (Worker* worker : backends_.workers) {
      const Worker::Snapshot snapshot = worker->snapshot();
      // Only one that has been up answers without waiting; all are the same program.
      if (!snapshot.status.device().empty()) return worker->GetCatalog();
      problems.push_back(absl::StrCat(worker->device(), ": ",
                                      snapshot.problem.empty() ? "still starting" : snapshot.problem));
    }
    if (control.cancelled()) return absl::CancelledError("the client left");
    if (absl::Now() >= until) {
      return absl::UnavailableError(
          absl::StrCat("no worker has come up yet (", absl::StrJoin(problems, "; "), "); retry later"));
    }
    if (backends_.workers.empty()) absl::SleepFor(kPoll);
    for (Worker* worker : backends_.workers) worker->WaitUntilReady(kPoll);
  }
}

absl::StatusOr<std::vector<v1::TaskInfo>> Catalog::ListTasks(CallControl& control) {
  EIGSVC_ASSIGN_OR_RETURN(worker::v1::GetCatalogResponse catalog, Get(control));
  std::vector<v1::TaskInfo> tasks(catalog.tasks().begin(), catalog.tasks().end());
  for (v1::TaskInfo& task : tasks) {
    if (task.has_data()) task.mutable_data()->set_found_name(FindData(task, *backends_.store));
  }
  return tasks;
}

absl::StatusOr<Page<v1::Checkpoint>> Catalog::ListCheckpoints(int32_t page_size,
                                                              const std::string& page_token) {
  EIGSVC_ASSIGN_OR_RETURN(const int32_t count, PageSize(page_size));
  std::string after;
  if (!page_token.empty()) {
    EIGSVC_ASSIGN_OR_RETURN(after, tokens_.Read("checkpoints", page_token));
  }
  EIGSVC_ASSIGN_OR_RETURN(std::vector<StoredEntry> entries, backends_.store->List(StoreKind::kCheckpoint));
  std::sort(entries.begin(), entries.end(),
            [](const StoredEntry& a, const StoredEntry& b) { return SortKey(a) < SortKey(b); });
  Page<v1::Checkpoint> page;
  std::string last;
  for (const StoredEntry& entry : entries) {
    if (SortKey(entry) <= after) continue;
    if (page.records.size() == static_cast<size_t>(count)) {
      page.next_page_token = tokens_.Make("checkpoints", last);
      break;
    }
    v1::Checkpoint& checkpoint = page.records.emplace_back();
    checkpoint.set_name(ToUtf8(entry.name, entry.name.size() * 3));
    checkpoint.set_sha256(entry.sha256);
    checkpoint.set_size_bytes(entry.size_bytes);
    checkpoint.set_directory(entry.directory);
    last = SortKey(entry);
  }
  return page;
}

std::vector<std::string> Catalog::Devices() const {
  std::vector<std::string> devices;
  for (const Worker* worker : backends_.workers) devices.push_back(worker->device());
  return devices;
}

Worker* Catalog::Pick(const std::string& device) const {
  const auto rank = [](const Worker* worker) {
    const Worker::State state = worker->snapshot().state;
    return state == Worker::State::kIdle ? 0 : state == Worker::State::kBusy ? 1 : 2;
  };
  Worker* best = nullptr;
  for (Worker* worker : backends_.workers) {
    if (!device.empty() && worker->device() != device) continue;
    if (best == nullptr || rank(worker) < rank(best)) best = worker;
  }
  return best;
}

absl::StatusOr<v1::CheckpointInspection> Catalog::Inspect(const v1::InspectCheckpointRequest& asked,
                                                          CallControl& control) {
  const v1::CheckpointRef& ref = asked.checkpoint();
  if (ref.has_initializer() || ref.has_twin_seed()) {
    return absl::InvalidArgumentError("an initializer or a twin has no bytes to inspect; name a checkpoint");
  }
  EIGSVC_RETURN_IF_ERROR(CheckCheckpoint(ref, Known{Devices(), nullptr}));
  worker::v1::InspectRequest request;
  request.set_dtype(asked.dtype());
  request.set_steps(asked.steps());
  EIGSVC_ASSIGN_OR_RETURN(*request.mutable_checkpoint(), ResolveCheckpoint(ref, *backends_.store));
  Worker* const worker = Pick("");
  if (worker == nullptr) return absl::UnavailableError("the server runs no workers; start it with a device");
  EIGSVC_ASSIGN_OR_RETURN(worker::v1::InspectResponse response, worker->Inspect(request, control));
  return std::move(*response.mutable_inspection());
}

absl::StatusOr<v1::LoadedModel> Catalog::Load(const v1::LoadModelRequest& request, CallControl& control) {
  const Known known{Devices(), nullptr};  // family names are left to the worker, which is asked anyway
  EIGSVC_RETURN_IF_ERROR(CheckCheckpoint(request.checkpoint(), known));
  EIGSVC_RETURN_IF_ERROR(CheckDtype(request.dtype()));
  EIGSVC_RETURN_IF_ERROR(CheckDevice(request.device(), known));
  worker::v1::LoadRequest load;
  load.set_dtype(request.dtype());
  EIGSVC_ASSIGN_OR_RETURN(*load.mutable_checkpoint(),
                          ResolveCheckpoint(request.checkpoint(), *backends_.store));
  Worker* const worker = Pick(request.device());
  if (worker == nullptr) return absl::UnavailableError("the server runs no workers; start it with a device");
  EIGSVC_ASSIGN_OR_RETURN(worker::v1::LoadResponse response, worker->Load(load, control));
  return std::move(*response.mutable_model());
}

absl::Status Catalog::Unload(const std::string& model_id) {
  if (model_id.empty())
    return absl::InvalidArgumentError("model_id is required; ListLoadedModels returns the ids");
  worker::v1::UnloadRequest request;
  request.set_model_id(model_id);
  bool unloaded = false;
  for (Worker* worker : backends_.workers) {
    if (!IsUp(*worker)) continue;  // a process that is not there holds nothing
    const absl::Status status = worker->Unload(request);
    unloaded |= status.ok();
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  if (unloaded) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("model \"", ToUtf8(model_id, 100),
                                          "\" is not loaded; ListLoadedModels returns those that are"));
}

std::vector<v1::LoadedModel> Catalog::ListLoaded() {
  std::vector<v1::LoadedModel> models;
  for (Worker* worker : backends_.workers) {
    if (!IsUp(*worker)) continue;
    absl::StatusOr<worker::v1::ListLoadedResponse> response = worker->ListLoaded();
    if (!response.ok()) continue;  // it died just now, and its pool with it
    for (v1::LoadedModel& model : *response->mutable_models()) models.push_back(std::move(model));
  }
  std::stable_sort(models.begin(), models.end(), [](const v1::LoadedModel& a, const v1::LoadedModel& b) {
    return LastUse(a) > LastUse(b);
  });
  return models;
}

std::vector<v1::WorkerInfo> Catalog::Workers() {
  std::vector<v1::WorkerInfo> workers;
  for (const Worker* worker : backends_.workers) {
    const Worker::Snapshot snapshot = worker->snapshot();
    v1::WorkerInfo& info = workers.emplace_back();
    info.set_device(worker->device());
    info.set_state(Name(snapshot.state));
    info.set_process_id(snapshot.pid);
    info.set_restart_count(snapshot.restart_count);
    info.set_description(ToUtf8(snapshot.problem.empty() ? snapshot.description : snapshot.problem, 1024));
  }
  return workers;
}

}  // namespace eigsvc
