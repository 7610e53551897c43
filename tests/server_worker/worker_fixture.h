// What the tests of the worker share: small real models on disk, a running service and a real channel to it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "eigsvc/worker/v1/worker_service.grpc.pb.h"
#include "gtest/gtest.h"
#include "server/worker/worker_service.h"

namespace eigsvc::testing {

// A directory of its own, removed with the object.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  std::string Path(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// MQAR small enough for a vocabulary of 64; `extra` is more JSON members, each with a leading comma.
std::string SmallMqar(const std::string& extra = "");

// Writes a freshly initialised Mamba-2 (vocabulary 64, two layers unless `settings` says otherwise) with
// `extra_settings` recorded beside it.
void SaveMamba2(const std::string& path, uint64_t seed, const std::string& settings = "{}",
                const std::string& extra_settings = "{}");
// Its request: MQAR over `examples` examples.
worker::v1::RunAnalysisRequest AnalysisRequest(const std::string& path, int64_t examples);
worker::v1::ResolvedCheckpoint CheckpointAt(const std::string& path);

// WorkerService on a Unix socket in this process, and a stub over a channel of its own.
class RunningWorker {
 public:
  explicit RunningWorker(WorkerServiceOptions options = {});
  ~RunningWorker();
  worker::v1::WorkerService::Stub& stub() { return *stub_; }

  struct Outcome {
    std::vector<worker::v1::RunAnalysisResponse> events;
    grpc::Status status;
  };
  Outcome Analyze(const worker::v1::RunAnalysisRequest& request);
  bool Busy() { return Status().busy(); }
  int64_t SideCallId() { return Status().side_call_id(); }
  // Waits until no job runs and returns how long that took.
  absl::Duration WaitUntilIdle();

 private:
  worker::v1::GetStatusResponse Status();

  TempDir dir_;
  WorkerService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<worker::v1::WorkerService::Stub> stub_;
};

}  // namespace eigsvc::testing
