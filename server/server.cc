#include "server/server.h"

#include <grpcpp/version_info.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/status_macros.h"
#include "server/http/http_server.h"
#include "server/jobs/jobs.h"
#include "server/metrics/metrics.h"
#include "server/plane/plane_request.h"
#include "server/store/store.h"

namespace eigsvc {
namespace {

// How long calls that are still open get once their jobs have ended: enough to send the last message.
constexpr absl::Duration kCloseTimeout = absl::Seconds(1);

// Asking the worker program for its devices loads LibTorch and takes seconds, so it is asked only where there
// may be more than the CPU.
absl::StatusOr<std::vector<std::string>> Devices(const ServerConfig& config, bool may_ask) {
  if (config.devices != std::vector<std::string>{"auto"}) return config.devices;
  if (!may_ask || access("/dev/nvidiactl", F_OK) != 0) return std::vector<std::string>{"cpu"};
  EIGSVC_ASSIGN_OR_RETURN(std::vector<std::string> devices, ListDevices(config.worker_binary));
  // "auto" takes the CPU only where there is nothing better.
  std::erase(devices, "cpu");
  if (devices.empty()) devices.push_back("cpu");
  return devices;
}

StoreOptions ToStoreOptions(const ServerConfig& config) {
  StoreOptions options;
  options.state_dir = config.state_dir;
  options.checkpoint_root = config.checkpoint_root;
  options.data_root = config.data_root;
  options.allow_local_paths = config.private_server;
  options.upload_bytes = config.upload_bytes;
  options.spool_bytes = config.spool_bytes;
  return options;
}

WorkerLauncher ToLauncher(const ServerConfig& config) {
  ProcessLauncherOptions options;
  options.binary = config.worker_binary;
  options.socket_dir = absl::StrCat(config.state_dir, "/workers");
  options.extra_flags = {"--threads", absl::StrCat(config.worker_threads), "--model-memory-bytes",
                         absl::StrCat(config.model_memory_bytes)};
  return ProcessLauncher(std::move(options));
}

RpcOptions ToRpcOptions(const ServerConfig& config, std::function<void(const RpcRecord&)> on_rpc) {
  RpcOptions options;
  options.listen = config.listen;
  options.reflection = config.reflection;
  options.private_server = config.private_server;
  options.max_connection_age = config.max_connection_age;
  options.versions = {{"eigsvcd", EIGSVC_VERSION}, {"grpc", GRPC_CPP_VERSION_STRING}};
  options.limits = {{"queue_capacity", config.queue_capacity},
                    {"model_memory_bytes", config.model_memory_bytes},
                    {"result_memory_bytes", config.result_memory_bytes},
                    {"spool_bytes", config.spool_bytes},
                    {"upload_bytes", config.upload_bytes}};
  options.queue_capacity = config.queue_capacity;
  options.on_rpc = std::move(on_rpc);
  return options;
}

}  // namespace

struct Server::Impl {
  Impl(const ServerConfig& server_config, ServerHooks server_hooks)
      : config(server_config), hooks(std::move(server_hooks)) {}

  absl::Status Start();
  void UpdateReadiness();
  std::string NotReadyReason() const;
  void Shutdown();
  void Hurry();

  const ServerConfig config;
  ServerHooks hooks;

  mutable std::mutex mutex;
  std::condition_variable changed;
  bool draining = false, hurry = false, shut_down = false;  // guarded by mutex
  // Taken to set health and its metric together, so that the last of two updates is also the later one.
  std::mutex readiness_mutex;
  std::optional<bool> told_ready;  // guarded by readiness_mutex; watchers of health hear of changes only

  // In the order in which they start.
  Metrics metrics;
  std::unique_ptr<Store> store;
  std::vector<std::unique_ptr<Worker>> workers;
  std::unique_ptr<Jobs> jobs;
  std::unique_ptr<RpcServer> rpc;
  std::unique_ptr<HttpServer> http;
};

absl::Status Server::Impl::Start() {
  EIGSVC_ASSIGN_OR_RETURN(const std::vector<std::string> devices, Devices(config, hooks.launcher == nullptr));
  EIGSVC_ASSIGN_OR_RETURN(store, Store::Open(ToStoreOptions(config)));
  const WorkerLauncher launcher = hooks.launcher ? hooks.launcher : ToLauncher(config);
  std::vector<Worker*> pointers;
  for (const std::string& device : devices) {
    WorkerOptions options;
    options.device = device;
    options.cancel_grace = config.cancel_grace;
    workers.push_back(std::make_unique<Worker>(options, launcher, &metrics));
    pointers.push_back(workers.back().get());
  }
  JobsOptions jobs_options;
  jobs_options.queue_capacity = config.queue_capacity;
  jobs_options.result_memory_bytes = config.result_memory_bytes;
  jobs_options.max_export_bytes = config.spool_bytes;
  jobs = std::make_unique<Jobs>(jobs_options, pointers, store.get(), &metrics);
  EIGSVC_ASSIGN_OR_RETURN(rpc, RpcServer::Start(ToRpcOptions(config, hooks.on_rpc),
                                                {jobs.get(), store.get(), &metrics, pointers}));
  if (!config.private_server && !config.http_listen.empty()) {
    HttpOptions options;
    options.listen = config.http_listen;
    EIGSVC_ASSIGN_OR_RETURN(
        http, HttpServer::Start(
                  options,
                  {[this](absl::string_view accept) {
                     const MetricsFormat format = ChooseFormat(accept);
                     return HttpHandlers::Text{std::string(ContentType(format)), metrics.Serialize(format)};
                   },
                   [this] { return NotReadyReason(); },
                   [this](absl::string_view target) -> absl::StatusOr<HttpHandlers::Text> {
                     EIGSVC_ASSIGN_OR_RETURN(std::string png, PlanePng(*jobs, target));
                     return HttpHandlers::Text{"image/png", std::move(png)};
                   }}));
  }
  // Last: the hook uses what stands above.
  for (Worker* worker : pointers) worker->OnStateChange([this] { UpdateReadiness(); });
  UpdateReadiness();
  return absl::OkStatus();
}

std::string Server::Impl::NotReadyReason() const {
  {
    // Also keeps the workers' threads from the list of workers while that is being cleared.
    const std::lock_guard lock(mutex);
    if (draining) return "draining: the server is shutting down";
  }
  std::vector<std::string> reasons;
  for (const auto& worker : workers) {
    const Worker::Snapshot snapshot = worker->snapshot();
    if (snapshot.state == Worker::State::kIdle || snapshot.state == Worker::State::kBusy) return "";
    reasons.push_back(
        absl::StrCat(worker->device(), ": ", snapshot.problem.empty() ? "starting" : snapshot.problem));
  }
  return absl::StrCat("no worker is ready (", absl::StrJoin(reasons, "; "), ")");
}

void Server::Impl::UpdateReadiness() {
  const std::lock_guard lock(readiness_mutex);
  const bool ready = NotReadyReason().empty();
  if (told_ready == ready) return;
  told_ready = ready;
  rpc->SetServing(ready);
  metrics.SetReady(ready);
}

void Server::Impl::Hurry() {
  {
    const std::lock_guard lock(mutex);
    hurry = true;
  }
  changed.notify_all();
  if (jobs != nullptr) jobs->Shutdown(absl::InfinitePast());
}

void Server::Impl::Shutdown() {
  {
    const std::lock_guard lock(mutex);
    if (std::exchange(shut_down, true)) return;
    draining = true;
  }
  if (rpc == nullptr) return;  // it never started
  metrics.SetDraining(true);
  UpdateReadiness();
  const auto hurried = [this] { return hurry; };
  bool now;
  {
    // Load balancers see NOT_SERVING and send their clients elsewhere; those that have not yet are still
    // served.
    std::unique_lock lock(mutex);
    const absl::Duration lame_duck = config.private_server ? absl::ZeroDuration() : config.lame_duck;
    now = changed.wait_for(lock, absl::ToChronoNanoseconds(lame_duck), hurried);
  }
  rpc->SetDraining();
  jobs->Shutdown(now ? absl::InfinitePast() : absl::Now() + config.drain_timeout);
  rpc->Shutdown(absl::Now() + kCloseTimeout);
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() {
  impl_->Hurry();
  impl_->Shutdown();
  // Not the plain reverse order: jobs call workers, and the workers' threads, which end with them, tell rpc.
  impl_->http.reset();
  impl_->jobs.reset();
  impl_->workers.clear();
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerConfig& config, ServerHooks hooks) {
  auto server = std::unique_ptr<Server>(new Server(std::make_unique<Impl>(config, std::move(hooks))));
  EIGSVC_RETURN_IF_ERROR(server->impl_->Start());
  return server;
}

std::string Server::address() const {
  const std::string& listen = impl_->config.listen;
  if (absl::StartsWith(listen, "unix:")) return listen;
  return absl::StrCat(listen.substr(0, listen.rfind(':')), ":", port());
}

int Server::port() const { return impl_->rpc->port(); }
int Server::http_port() const { return impl_->http != nullptr ? impl_->http->port() : 0; }
void Server::Shutdown() { impl_->Shutdown(); }
void Server::Hurry() { impl_->Hurry(); }

}  // namespace eigsvc
