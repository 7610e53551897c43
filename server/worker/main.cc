// eigsvc-worker: the process that owns one device, or several that work together. Started by eigsvcd with a
// Unix socket, or by a batch system with a request file. See worker_service.h for the first, headless.h for
// the second.
//
// Exit codes: 0 ended as told · 1 could not start · 2 wrong command line · 64 + status code: the headless
// analysis or inspection failed · 70 the device is unusable until the process ends (a sticky CUDA error).
#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "models/base/freed_memory.h"
#include "models/base/status_macros.h"
#include "models/tensor/attention_lse.h"
#include "models/tensor/device.h"
#include "models/tensor/torch_call.h"
#include "server/reader/reader.h"
#include "server/reader/sandbox.h"
#include "server/worker/device_info.h"
#include "server/worker/headless.h"
#include "server/worker/outline.h"
#include "server/worker/worker_service.h"

namespace eigsvc {
namespace {

constexpr int kExitNotStarted = 1;
constexpr int kExitUsage = 2;
constexpr int kExitStatusBase = 64;
constexpr int kExitStickyCuda = 70;

struct Options {
  std::string socket;
  std::string device = "cpu";
  int threads = 0;
  int64_t model_memory_bytes = int64_t{8} << 30;
  bool list_devices = false;
  HeadlessOptions headless;
  std::string inspected, config;
  InspectOptions inspect;
};

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "eigsvc-worker: %s\n", std::string(status.message()).c_str());
  return kExitNotStarted;
}

[[noreturn]] void EndForStickyCuda(const absl::Status& status) {
  Fail(status);
  _exit(kExitStickyCuda);  // tearing down a broken CUDA context may hang
}

// The daemon's death must not leave a process behind that holds a device. The daemon asks for the same
// between fork and exec; this covers a worker started in another way.
bool DieWithParent(pid_t parent) { return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent; }

sigset_t EndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT}) sigaddset(&signals, signal);
  return signals;
}

// Before a client's file is opened. Containers have their own walls, so that one without goes on.
void Confine() {
  if (const absl::Status status = EnterSandbox(); !status.ok()) {
    std::fprintf(stderr, "eigsvc-worker: %s; going on without\n", std::string(status.message()).c_str());
  }
}

// Switches off operators that are wrong here; before anything runs.
absl::StatusOr<std::string> SelfTest(const std::vector<c10::Device>& devices) {
  std::string report;
  for (const c10::Device device : devices) {
    EIGSVC_ASSIGN_OR_RETURN(report,
                            CallTorch("attention self-test", [&] { return SelfTestAttention(device); }));
  }
  return report;
}

int Serve(const Options& options, const std::vector<c10::Device>& devices, const ConfinedReader& reader) {
  // sun_path holds 108 bytes with its terminator; gRPC's own message does not name the path.
  if (options.socket.size() > 107) {
    return Fail(absl::InvalidArgumentError(
        absl::StrCat("--socket ", options.socket, " is longer than 107 bytes; use a shorter directory")));
  }
  WorkerServiceOptions service_options;
  service_options.devices = devices;
  service_options.device_name = options.device;
  service_options.model_memory_bytes = options.model_memory_bytes;
  service_options.on_fatal = EndForStickyCuda;
  const absl::StatusOr<std::string> self_test = SelfTest(devices);
  if (!self_test.ok()) return Fail(self_test.status());
  service_options.self_test = *self_test;
  service_options.reader = &reader;
  std::thread([&reader] {  // so that the daemon starts a worker that can read
    reader.WaitUntilKeeperIsGone();
    _exit(Fail(absl::UnavailableError("the keeper of the readers of checkpoints is gone; ending")));
  })
      .detach();
  Confine();

  WorkerService service(std::move(service_options));
  grpc::ServerBuilder builder;
  int bound = 0;
  builder.AddListeningPort(absl::StrCat("unix:", options.socket), grpc::InsecureServerCredentials(), &bound);
  builder.SetMaxReceiveMessageSize(32 << 20);  // settings may take 16 MiB
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || bound == 0) {
    return Fail(absl::UnavailableError(absl::StrCat("cannot listen on ", options.socket)));
  }
  int signal = 0;
  const sigset_t signals = EndSignals();
  sigwait(&signals, &signal);
  server->Shutdown(std::chrono::system_clock::now());  // cancels what runs
  server->Wait();
  return 0;
}

void PrintEvent(const v1::AnalysisEvent& event) {
  if (event.has_model()) {
    std::fprintf(stderr, "model: %s (%s), %d layers\n", event.model().family().c_str(),
                 event.model().layout().c_str(), static_cast<int>(event.model().layers()));
  } else if (event.has_progress() && event.progress().phase() == "run") {
    std::fprintf(stderr, "run: %lld of %lld examples\n",
                 static_cast<long long>(event.progress().examples_done()),
                 static_cast<long long>(event.progress().examples_total()));
  }
}

int Analyze(const Options& options, const std::vector<c10::Device>& devices, const ContentsReader& reader) {
  if (const auto self_test = SelfTest(devices); !self_test.ok()) return Fail(self_test.status());
  Confine();
  ModelPool pool(devices, options.device, options.model_memory_bytes, &reader);
  static StopToken stop;  // the thread below ends with the process
  std::thread([] {
    int signal = 0;
    const sigset_t signals = EndSignals();
    sigwait(&signals, &signal);
    stop.Cancel();
  }).detach();
  const absl::Status status = RunHeadless(options.headless, pool, PrintEvent, stop);
  if (status.ok()) return 0;
  if (status.GetPayload(kStickyCudaErrorUrl)) EndForStickyCuda(status);
  Fail(status);
  return kExitStatusBase + status.raw_code();
}

int Inspect(const Options& options) {
  const absl::StatusOr<v1::CheckpointInspection> inspection = CallTorch(
      "inspect", [&] { return InspectWithModel(options.inspected, options.config, options.inspect); });
  if (!inspection.ok()) {
    Fail(inspection.status());
    return kExitStatusBase + inspection.status().raw_code();
  }
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(*inspection, &text).ok()) {
    return Fail(absl::InternalError("the findings cannot be written as JSON (a bug: a string is not UTF-8)"));
  }
  std::printf("%s\n", text.c_str());
  return std::fflush(stdout) == 0 ? 0 : kExitNotStarted;
}

int Main(int argc, char** argv) {
  const pid_t parent = getppid();
  KeepFreedMemory();
  Options options;
  CLI::App app{"eigsvc-worker: runs analyses and trainings on one device, or on several that share them"};
  app.set_version_flag(
      "--version", absl::StrCat("eigsvc-worker ", EIGSVC_VERSION, " (LibTorch ", EIGSVC_TORCH_VERSION, ")"));
  app.add_option("--socket", options.socket, "Unix socket to serve eigsvc.worker.v1 on");
  app.add_option("--device", options.device, "cpu or cuda:N; cuda:0+cuda:1: several, which share an analysis")
      ->capture_default_str();
  app.add_option("--threads", options.threads, "CPU threads of a computation; 0: as many as cores")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  app.add_option("--model-memory-bytes", options.model_memory_bytes, "Weights kept loaded between jobs")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--list-devices", options.list_devices, "Print the devices of this machine, a line each");
  CLI::App* analyze = app.add_subcommand("analyze", "Run one analysis without a daemon")->fallthrough();
  analyze
      ->add_option("--request", options.headless.request_path,
                   "AnalyzeRequest or RunAnalysisRequest as proto3 JSON")
      ->required();
  analyze->add_option("--output", options.headless.output_path, "Where to write the Analysis as proto3 JSON")
      ->required();
  analyze->add_option("--export", options.headless.export_path,
                      "Where to write every eigenvalue as safetensors");
  CLI::App* inspect =
      app.add_subcommand("inspect", "Print what a checkpoint is as proto3 JSON of CheckpointInspection");
  inspect->add_option("path", options.inspected, "File or directory")->required();
  inspect->add_option("--config", options.config, "Settings the checkpoint lacks, a JSON object");
  inspect->add_option("--dtype", options.inspect.dtype, "Element type that memory is told for (float32)");
  inspect->add_option("--steps", options.inspect.steps, "Length of a sequence that memory is told for");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }

  // A core of a process that maps models and device memory fills a disk and tells clients' weights.
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  // Blocked before any thread starts, so that only sigwait sees them.
  const sigset_t signals = EndSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  if (options.list_devices) {
    for (const std::string& name : DeviceNames()) std::printf("%s\n", name.c_str());
    return 0;
  }
  // Before LibTorch or gRPC start threads: it forks.
  absl::StatusOr<std::unique_ptr<ConfinedReader>> started = ConfinedReader::Start();
  if (!started.ok()) return Fail(started.status());
  const ConfinedReader& reader = *started->release();  // ends with this process: threads use it to the last
  if (inspect->parsed()) {
    Confine();
    options.inspect.archive.on_demand = true;
    options.inspect.archive.reader = &reader;
    return Inspect(options);
  }
  const absl::StatusOr<std::vector<c10::Device>> devices = ParseDevices(options.device);
  if (!devices.ok()) return Fail(devices.status());
  RequireFullFloat32();
  if (options.threads > 0) at::set_num_threads(options.threads);
  if (analyze->parsed()) return Analyze(options, *devices, reader);
  if (options.socket.empty()) {
    std::fprintf(stderr, "eigsvc-worker: give --socket PATH to serve, or the analyze command; see --help\n");
    return kExitUsage;
  }
  if (!DieWithParent(parent))
    return Fail(absl::UnavailableError("the parent process ended while this one started"));
  return Serve(options, *devices, reader);
}

}  // namespace
}  // namespace eigsvc

int main(int argc, char** argv) { return eigsvc::Main(argc, argv); }
