// A worker process for tests: serves WorkerService and misbehaves as the request's analysis id says.
//   fake_worker --socket PATH --device NAME [--start-exit CODE] [--start-hang] [--ignore-term] [--chatter N]
//   fake_worker --list-devices
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>

#include "eigsvc/worker/v1/worker_service.grpc.pb.h"

namespace {

using namespace eigsvc::worker::v1;  // NOLINT: a test program of one file

void SleepMs(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

class FakeWorker final : public WorkerService::Service {
 public:
  explicit FakeWorker(std::string device) : device_(std::move(device)) {}

 private:
  grpc::Status GetStatus(grpc::ServerContext*, const GetStatusRequest*,
                         GetStatusResponse* response) override {
    response->set_device(device_);
    response->set_device_description("fake " + device_);
    response->set_busy(busy_);
    response->mutable_versions()->insert({"fake", "1"});
    return grpc::Status::OK;
  }
  grpc::Status GetCatalog(grpc::ServerContext*, const GetCatalogRequest*,
                          GetCatalogResponse* response) override {
    response->add_models()->set_name("mamba2");
    return grpc::Status::OK;
  }
  grpc::Status RunAnalysis(grpc::ServerContext* context, const RunAnalysisRequest* request,
                           grpc::ServerWriter<RunAnalysisResponse>* writer) override {
    busy_ = true;
    const grpc::Status status = Script(request->analysis_id(), context, writer);
    busy_ = false;
    return status;
  }
  grpc::Status Inspect(grpc::ServerContext*, const InspectRequest* request,
                       InspectResponse* response) override {
    if (request->checkpoint().path().empty()) return {grpc::StatusCode::INVALID_ARGUMENT, "no path"};
    response->mutable_inspection()->set_family(request->checkpoint().path());
    return grpc::Status::OK;
  }
  grpc::Status ListLoaded(grpc::ServerContext*, const ListLoadedRequest*,
                          ListLoadedResponse* response) override {
    response->add_models()->set_model_id("loaded");
    return grpc::Status::OK;
  }

  grpc::Status Script(const std::string& script, grpc::ServerContext* context,
                      grpc::ServerWriter<RunAnalysisResponse>* writer) {
    RunAnalysisResponse response;
    response.mutable_event()->mutable_progress();
    writer->Write(response);
    if (script == "crash") {
      signal(SIGSEGV, SIG_DFL);  // AddressSanitizer's handler would make an exit of it
      raise(SIGSEGV);
    }
    if (script == "exit 70") _exit(70);
    if (script == "hang") {  // does not notice the cancel
      while (true) SleepMs(1000);
    }
    if (script == "freeze") {  // nothing answers any more
      raise(SIGSTOP);
      return grpc::Status::OK;
    }
    if (script == "obey") {  // stops 30 ms after the cancel
      while (!context->IsCancelled()) SleepMs(1);
      SleepMs(30);
      return grpc::Status::CANCELLED;
    }
    if (script == "big") {  // beyond gRPC's default of 4 MiB
      response.mutable_event()->mutable_result()->mutable_task()->set_name(std::string(20 << 20, 'x'));
      writer->Write(response);
      return grpc::Status::OK;
    }
    if (script == "fail") return {grpc::StatusCode::FAILED_PRECONDITION, "shapes [3] and [4] differ"};
    if (script == "report") {  // what the process inherited, for the test to read from the log
      sigset_t blocked;
      sigprocmask(SIG_SETMASK, nullptr, &blocked);
      std::fprintf(stderr, "term blocked %d, group leader %d\n", sigismember(&blocked, SIGTERM),
                   getpgrp() == getpid());
    }
    return grpc::Status::OK;
  }

  const std::string device_;
  std::atomic<bool> busy_{false};
};

}  // namespace

int main(int argc, char** argv) {
  std::string socket, device;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (flag == "--list-devices") {
      std::fprintf(stderr, "looking for devices\n");
      std::printf("cuda:0\ncuda:1\n");
      return 0;
    }
    if (flag == "--socket") socket = value;
    if (flag == "--device") device = value;
    if (flag == "--start-exit") {
      std::fprintf(stderr, "no CUDA driver\n");
      return std::atoi(value.c_str());
    }
    if (flag == "--start-hang") SleepMs(3600 * 1000);
    if (flag == "--ignore-term") signal(SIGTERM, SIG_IGN);
    if (flag == "--chatter") {
      for (int line = 0; line < std::atoi(value.c_str()); ++line) std::fprintf(stderr, "line %d\n", line);
    }
  }
  std::fprintf(stderr, "hello from %s\n%s\nescape \033[31m\n", device.c_str(),
               std::string(10000, 'y').c_str());
  FakeWorker service(device);
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  builder.SetMaxSendMessageSize(-1);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 2;
  server->Wait();
}
