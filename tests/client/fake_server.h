// A server of the contract that computes nothing: it answers from canned messages, remembers what it was
// asked, and fails or hangs on demand.
#pragma once

#include <grpcpp/server.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "eigsvc/v1/analysis_service.grpc.pb.h"
#include "eigsvc/v1/catalog_service.grpc.pb.h"
#include "eigsvc/v1/training_service.grpc.pb.h"

namespace eigsvc::cli::testing {

struct FakeUpload {
  v1::UploadManifest manifest;
  std::string bytes;
};

class FakeServer {
 public:
  // `address` as gRPC takes it; port 0 is any.
  explicit FakeServer(const std::string& address = "127.0.0.1:0");
  ~FakeServer();
  const std::string& address() const { return address_; }

  // Behaviour; set before the call it concerns.
  grpc::Status analyze_status, train_status, unary_status;  // not OK: the call's outcome
  int unary_failures = 0;   // so many unary calls fail UNAVAILABLE before unary_status holds
  bool hang = false;        // Analyze and Train stay open after their first progress, until a cancel arrives
  bool obey_cancel = true;  // CancelAnalysis and CancelTraining end a hanging job
  int download_break_after = -1;                   // bytes after which the first download breaks off
  std::set<std::string> known_digests;             // of manifests' first files
  std::map<std::string, std::string> checkpoints;  // downloads by digest

  // What was asked.
  std::vector<v1::AnalyzeRequest> analyze_requests() const;
  std::vector<v1::TrainRequest> train_requests() const;
  std::vector<FakeUpload> checkpoint_uploads() const;
  std::vector<FakeUpload> data_uploads() const;
  std::vector<std::string> cancelled() const;
  int unary_calls() const;

 private:
  class Analyses;
  class Catalog;
  class Trainings;

  template <typename Record>
  std::vector<Record> Copy(const std::vector<Record>& records) const {
    const std::lock_guard lock(mutex_);
    return records;
  }
  // OK, or what this unary call is to fail with.
  grpc::Status Unary();
  // Returns once cancelled by RPC (CANCELLED) or by the client.
  grpc::Status Hang(grpc::ServerContext* context);
  grpc::Status Download(const std::string& bytes, int64_t offset,
                        const std::function<bool(const std::string&)>& write);

  mutable std::mutex mutex_;
  std::vector<v1::AnalyzeRequest> analyze_requests_;
  std::vector<v1::TrainRequest> train_requests_;
  std::vector<FakeUpload> checkpoint_uploads_, data_uploads_;
  std::vector<std::string> cancelled_;
  int unary_calls_ = 0;
  std::atomic<bool> cancel_{false};

  std::unique_ptr<Analyses> analyses_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<Trainings> trainings_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace eigsvc::cli::testing
