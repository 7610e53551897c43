#include "server/worker/event_writer.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <thread>

#include "eigsvc/worker/v1/worker_service.grpc.pb.h"
#include "gtest/gtest.h"
#include "tests/server_worker/worker_fixture.h"

namespace eigsvc {
namespace {

using Response = worker::v1::RunAnalysisResponse;

// Posts a model, `snapshots` snapshots of 64 KiB as fast as it can, and a result.
class Flood final : public worker::v1::WorkerService::CallbackService {
 public:
  explicit Flood(int64_t snapshots) : snapshots_(snapshots) {}
  ~Flood() override { thread_.join(); }

  grpc::ServerWriteReactor<Response>* RunAnalysis(grpc::CallbackServerContext*,
                                                  const worker::v1::RunAnalysisRequest*) override {
    auto* writer = new EventWriter<Response>(absl::InfiniteFuture());
    thread_ = std::thread([this, writer] {
      Response model;
      model.mutable_event()->mutable_model()->set_family("mamba2");
      writer->Post(model, /*snapshot=*/false);
      for (int64_t i = 1; i <= snapshots_ && writer->stop().Check().ok(); ++i) {
        Response snapshot;
        snapshot.mutable_event()->mutable_progress()->set_examples_done(i);
        snapshot.mutable_event()->mutable_progress()->set_phase(std::string(64 << 10, 'x'));
        writer->Post(std::move(snapshot), /*snapshot=*/true);
      }
      Response result;
      result.mutable_event()->mutable_result()->set_examples(snapshots_);
      writer->Post(std::move(result), /*snapshot=*/false);
      stopped_ = !writer->stop().Check().ok();
      posted_ = true;
      writer->End(grpc::Status(grpc::StatusCode::DATA_LOSS, "the end"));
    });
    return writer;
  }

  bool posted() const { return posted_; }
  bool stopped() const { return stopped_; }

 private:
  const int64_t snapshots_;
  std::thread thread_;
  std::atomic<bool> posted_{false}, stopped_{false};
};

class EventWriterTest : public ::testing::Test {
 protected:
  void Start(int64_t snapshots) {
    flood_ = std::make_unique<Flood>(snapshots);
    const std::string address = "unix:" + dir_.Path("w");
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    builder.RegisterService(flood_.get());
    server_ = builder.BuildAndStart();
    stub_ =
        worker::v1::WorkerService::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  }

  testing::TempDir dir_;
  std::unique_ptr<Flood> flood_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<worker::v1::WorkerService::Stub> stub_;
};

TEST_F(EventWriterTest, ASlowReaderSkipsSnapshotsAndNothingElse) {
  constexpr int64_t kSnapshots = 20000;  // 1.3 GB if they were kept
  Start(kSnapshots);
  grpc::ClientContext context;
  const auto reader = stub_->RunAnalysis(&context, {});
  while (!flood_->posted()) std::this_thread::yield();  // the job is done before anything is read

  Response event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_TRUE(event.event().has_model());
  int64_t seen = 0, newest = 0;
  bool result = false;
  while (reader->Read(&event)) {
    ASSERT_FALSE(result) << "something came after the result";
    if (event.event().has_progress()) {
      ++seen;
      EXPECT_GT(event.event().progress().examples_done(), newest) << "snapshots must not go back";
      newest = event.event().progress().examples_done();
    } else {
      result = event.event().has_result();
    }
  }
  EXPECT_TRUE(result);
  // What the sockets and gRPC's windows hold got through; the rest gave way.
  EXPECT_LT(seen, kSnapshots / 10);
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(status.error_message(), "the end");
}

TEST_F(EventWriterTest, AReaderThatLeavesStopsTheJob) {
  Start(int64_t{1} << 40);
  grpc::ClientContext context;
  const auto reader = stub_->RunAnalysis(&context, {});
  Response event;
  ASSERT_TRUE(reader->Read(&event));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  for (int i = 0; i < 1000 && !flood_->posted(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(flood_->posted());
  EXPECT_TRUE(flood_->stopped());
}

}  // namespace
}  // namespace eigsvc
