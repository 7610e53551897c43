// CatalogService end to end: lists, uploads, downloads, the pools and the server's own description.
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "models/base/sha256.h"
#include "tests/server_rpc/daemon.h"

namespace eigsvc::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Digest(const std::string& bytes) {
  return Sha256::Of({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
}

class CatalogTest : public DaemonTest {
 protected:
  struct File {
    std::string name, bytes;
  };
  static v1::UploadManifest Manifest(const std::vector<File>& files, bool directory = false) {
    v1::UploadManifest manifest;
    manifest.set_directory(directory);
    for (const File& file : files) {
      v1::UploadFile& entry = *manifest.add_files();
      entry.set_name(file.name);
      entry.set_size_bytes(static_cast<int64_t>(file.bytes.size()));
      entry.set_sha256(Digest(file.bytes));
    }
    return manifest;
  }
  // Sends the manifest and then `bytes` in pieces; `sent` counts the pieces that could be written.
  grpc::Status Upload(const v1::UploadManifest& manifest, const std::string& bytes,
                      v1::UploadCheckpointResponse* response, size_t piece = 1000, int* sent = nullptr) {
    grpc::ClientContext context;
    auto stream = catalog_->UploadCheckpoint(&context, response);
    v1::UploadCheckpointRequest request;
    *request.mutable_manifest() = manifest;
    bool open = stream->Write(request);
    for (size_t at = 0; open && at < bytes.size(); at += piece) {
      request.set_chunk(bytes.substr(at, piece));
      open = stream->Write(request);
      if (open && sent != nullptr) ++*sent;
    }
    stream->WritesDone();
    return stream->Finish();
  }
  grpc::Status Download(const std::string& sha256, int64_t offset, std::string* got) {
    grpc::ClientContext context;
    v1::DownloadCheckpointRequest request;
    request.set_sha256(sha256);
    request.set_offset_bytes(offset);
    auto stream = catalog_->DownloadCheckpoint(&context, request);
    v1::DownloadCheckpointResponse response;
    while (stream->Read(&response)) {
      EXPECT_LE(response.chunk().size(), size_t{256} << 10);
      *got += response.chunk();
    }
    return stream->Finish();
  }
  std::vector<std::string> Listed() {
    std::vector<std::string> names;
    v1::ListCheckpointsRequest request;
    v1::ListCheckpointsResponse response;
    do {
      grpc::ClientContext context;
      request.set_page_size(1);
      request.set_page_token(response.next_page_token());
      EXPECT_TRUE(catalog_->ListCheckpoints(&context, request, &response).ok());
      for (const v1::Checkpoint& c : response.checkpoints())
        names.push_back(c.name().empty() ? c.sha256() : c.name());
    } while (!response.next_page_token().empty());
    return names;
  }
};

TEST_F(CatalogTest, UploadIsStoredListedUsableAndDownloadable) {
  StartDaemon();
  std::string bytes;
  for (int i = 0; i < 600'000; ++i) bytes.push_back(static_cast<char>(i * 7 + i / 251));
  v1::UploadCheckpointResponse stored;
  const grpc::Status status = Upload(Manifest({{"m.safetensors", bytes}}), bytes, &stored, 100'000);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(stored.sha256(), Digest(bytes));
  EXPECT_FALSE(stored.existed());
  EXPECT_THAT(Listed(), ElementsAre("known.safetensors", Digest(bytes)));

  for (const size_t offset :
       {size_t{0}, size_t{300'001}, bytes.size()}) {  // resumed, as after a broken stream
    std::string got;
    EXPECT_TRUE(Download(stored.sha256(), static_cast<int64_t>(offset), &got).ok());
    EXPECT_TRUE(got == bytes.substr(offset));
  }
  std::string got;
  EXPECT_THAT(Download(stored.sha256(), 600'001, &got),
              IsStatus(grpc::OUT_OF_RANGE, HasSubstr("600000 bytes")));

  v1::AnalyzeRequest request = GoodRequest();
  request.mutable_spec()->mutable_checkpoint()->set_sha256(stored.sha256());
  EXPECT_TRUE(Analyze(request).ok());
}

TEST_F(CatalogTest, KnownUploadEndsEarly) {
  StartDaemon();
  const std::string bytes(8'000'000, 'x');
  v1::UploadCheckpointResponse stored;
  ASSERT_TRUE(Upload(Manifest({{"m.safetensors", bytes}}), bytes, &stored, 1'000'000).ok());
  stored.Clear();
  int sent = 0;
  const grpc::Status status = Upload(Manifest({{"m.safetensors", bytes}}), bytes, &stored, 10'000, &sent);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(stored.existed());
  EXPECT_EQ(stored.sha256(), Digest(bytes));
  EXPECT_LT(sent, 800);  // not all of it crossed the wire
}

TEST_F(CatalogTest, DirectoryIsStoredAsOneAndNotDownloadable) {
  StartDaemon();
  v1::UploadCheckpointResponse stored;
  const grpc::Status status = Upload(
      Manifest({{"config.json", "{}"}, {"model.safetensors", "weights"}}, true), "{}weights", &stored, 3);
  ASSERT_TRUE(status.ok()) << status.error_message();
  std::string got;
  EXPECT_THAT(Download(stored.sha256(), 0, &got),
              IsStatus(grpc::FAILED_PRECONDITION, HasSubstr("directory")));
}

TEST_F(CatalogTest, BadUploadsAreRefusedAndLeaveNothing) {
  StartDaemon();
  v1::UploadCheckpointResponse stored;
  v1::UploadManifest manifest = Manifest({{"m.bin", "good bytes"}});
  EXPECT_THAT(Upload(manifest, "evil bytes", &stored), IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("m.bin")));
  EXPECT_THAT(Upload(manifest, "good", &stored), IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("")));
  EXPECT_THAT(Upload(manifest, "good bytes and more", &stored),
              IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("")));
  EXPECT_THAT(Upload(v1::UploadManifest(), "", &stored),
              IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("0 files")));
  EXPECT_THAT(Upload(Manifest(std::vector<File>(1001, File{"a", "b"})), "", &stored),
              IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("1001 files")));
  for (const std::string name : {"../m.bin", "/etc/passwd", ".hidden", "a/b", "", "a\nb", ".."}) {
    EXPECT_THAT(Upload(Manifest({{name, "x"}}), "x", &stored),
                IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("")))
        << absl::CHexEscape(name);
  }
  manifest.mutable_files(0)->set_sha256("not a digest");
  EXPECT_THAT(Upload(manifest, "good bytes", &stored), IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("")));
  manifest = Manifest({{"m.bin", "good bytes"}});
  manifest.mutable_files(0)->set_size_bytes(-1);
  EXPECT_THAT(Upload(manifest, "good bytes", &stored), IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("")));
  manifest.mutable_files(0)->set_size_bytes(int64_t{1} << 60);
  EXPECT_THAT(Upload(manifest, "good bytes", &stored), IsStatus(grpc::RESOURCE_EXHAUSTED, HasSubstr("")));
  EXPECT_THAT(Listed(), ElementsAre("known.safetensors"));
}

TEST_F(CatalogTest, UploadsOutOfOrderAreRefused) {
  StartDaemon();
  const auto upload = [&](const std::vector<v1::UploadCheckpointRequest>& messages) {
    grpc::ClientContext context;
    v1::UploadCheckpointResponse response;
    auto stream = catalog_->UploadCheckpoint(&context, &response);
    for (const auto& message : messages) {
      if (!stream->Write(message)) break;
    }
    stream->WritesDone();
    return stream->Finish();
  };
  v1::UploadCheckpointRequest chunk, manifest, large;
  chunk.set_chunk("bytes");
  large.set_chunk(std::string((1 << 20) + 1, 'x'));
  *manifest.mutable_manifest() = Manifest({{"m.bin", std::string(2 << 20, 'x')}});
  EXPECT_THAT(upload({}), IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("before its manifest")));
  EXPECT_THAT(upload({chunk}), IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("must be the manifest")));
  EXPECT_THAT(upload({manifest, manifest}), IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("second manifest")));
  EXPECT_THAT(upload({manifest, v1::UploadCheckpointRequest()}),
              IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("neither manifest nor chunk")));
  EXPECT_THAT(upload({manifest, large}), IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("at most 1048576")));
  EXPECT_THAT(Listed(), ElementsAre("known.safetensors"));
}

TEST_F(CatalogTest, DataIsUploadedInTheSameWay) {
  StartDaemon();
  grpc::ClientContext context;
  v1::UploadDataResponse response;
  auto stream = catalog_->UploadData(&context, &response);
  v1::UploadDataRequest request;
  *request.mutable_manifest() = Manifest({{"tokens.txt", "1 2 3"}});
  ASSERT_TRUE(stream->Write(request));
  request.set_chunk("1 2 3");
  ASSERT_TRUE(stream->Write(request));
  stream->WritesDone();
  ASSERT_TRUE(stream->Finish().ok());
  v1::AnalyzeRequest analyze = GoodRequest();
  analyze.mutable_spec()->mutable_task()->set_name("next-token");
  analyze.mutable_spec()->mutable_task()->mutable_data()->set_sha256(response.sha256());
  std::string data_path;
  script_.analysis = [&](const worker::v1::RunAnalysisRequest& run, FakeRun&, const auto& on_event) {
    data_path = run.data_path();
    on_event(ResultEvent(1));
    return absl::OkStatus();
  };
  EXPECT_TRUE(Analyze(analyze).ok());
  std::string text;
  std::getline(std::ifstream(data_path), text);
  EXPECT_EQ(text, "1 2 3");
  EXPECT_THAT(Listed(), ElementsAre("known.safetensors"));  // data is no checkpoint
}

TEST_F(CatalogTest, ModelsAndTasksComeFromAWorkerThatMayStillStart) {
  StartDaemon();
  grpc::ClientContext context, again;
  v1::ListModelsResponse models;
  ASSERT_TRUE(catalog_->ListModels(&context, {}, &models).ok());
  EXPECT_EQ(models.models_size(), 2);
  v1::ListTasksResponse tasks;
  ASSERT_TRUE(catalog_->ListTasks(&again, {}, &tasks).ok());
  EXPECT_EQ(tasks.tasks(0).name(), "mqar");
}

// `eigsvc tasks` says what of a task's data the root holds; an analysis that names none runs on it.
TEST_F(CatalogTest, DataOfTheRootIsFoundAndUsed) {
  config_.data_root = directory_ + "/data";
  std::filesystem::create_directory(config_.data_root);
  StartDaemon();
  const auto found = [&] {
    grpc::ClientContext context;
    v1::ListTasksResponse tasks;
    EXPECT_TRUE(catalog_->ListTasks(&context, {}, &tasks).ok());
    EXPECT_FALSE(tasks.tasks(0).has_data());
    return tasks.tasks(1).data().found_name();
  };
  EXPECT_EQ(found(), "");
  v1::AnalyzeRequest analyze = GoodRequest();
  analyze.mutable_spec()->mutable_task()->set_name("next-token");
  const grpc::Status missing = Analyze(analyze);
  EXPECT_EQ(missing.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(missing.error_message(), HasSubstr("data root holds none of ids.txt"));

  std::ofstream(config_.data_root + "/ids.txt") << "1 2 3";
  EXPECT_EQ(found(), "ids.txt");
  std::string data_path;
  script_.analysis = [&](const worker::v1::RunAnalysisRequest& run, FakeRun&, const auto& on_event) {
    data_path = run.data_path();
    on_event(ResultEvent(1));
    return absl::OkStatus();
  };
  EXPECT_TRUE(Analyze(analyze).ok());
  EXPECT_EQ(std::filesystem::path(data_path).filename(), "ids.txt");
}

// The data root serves a job, too, that was there before any worker had said which tasks read data.
TEST_F(CatalogTest, DataOfTheRootIsFoundForAJobThatCameFirst) {
  config_.data_root = directory_ + "/data";
  std::filesystem::create_directory(config_.data_root);
  std::ofstream(config_.data_root + "/ids.txt") << "1 2 3";
  std::atomic<bool> up = false;
  script_.start = [&] { return up ? absl::OkStatus() : absl::UnavailableError("not yet"); };
  std::string data_path;
  script_.analysis = [&](const worker::v1::RunAnalysisRequest& run, FakeRun&, const auto& on_event) {
    data_path = run.data_path();
    on_event(ResultEvent(1));
    return absl::OkStatus();
  };
  StartDaemon();
  v1::AnalyzeRequest analyze = GoodRequest();
  analyze.mutable_spec()->mutable_task()->set_name("next-token");
  std::thread starter([&] {
    while (true) {
      grpc::ClientContext context;
      v1::ListAnalysesResponse jobs;
      if (analyses_->ListAnalyses(&context, {}, &jobs).ok() && jobs.analyses_size() > 0) break;
      absl::SleepFor(absl::Milliseconds(5));
    }
    up = true;
  });
  EXPECT_TRUE(Analyze(analyze).ok());
  starter.join();
  EXPECT_EQ(std::filesystem::path(data_path).filename(), "ids.txt");
}

TEST_F(CatalogTest, WithoutAWorkerTheReasonIsGivenByTheDeadline) {
  script_.start = [] { return absl::UnavailableError("no such program"); };
  StartDaemon();
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(300)));
  v1::ListModelsResponse models;
  EXPECT_THAT(catalog_->ListModels(&context, {}, &models).error_code(),
              ::testing::AnyOf(grpc::UNAVAILABLE, grpc::DEADLINE_EXCEEDED));
}

TEST_F(CatalogTest, ModelsAreLoadedListedAndUnloaded) {
  StartDaemon();
  AwaitWorker();
  grpc::ClientContext load_context, list_context, unload_context, list_again_context, unload_again_context;
  v1::LoadModelRequest load;
  load.mutable_checkpoint()->set_name("known.safetensors");
  load.set_dtype("float64");
  v1::LoadModelResponse loaded;
  ASSERT_TRUE(catalog_->LoadModel(&load_context, load, &loaded).ok());
  EXPECT_EQ(loaded.model().model().dtype(), "float64");
  v1::ListLoadedModelsResponse listed;
  ASSERT_TRUE(catalog_->ListLoadedModels(&list_context, {}, &listed).ok());
  ASSERT_EQ(listed.models_size(), 1);
  v1::UnloadModelRequest unload;
  unload.set_model_id(listed.models(0).model_id());
  v1::UnloadModelResponse unloaded;
  EXPECT_TRUE(catalog_->UnloadModel(&unload_context, unload, &unloaded).ok());
  ASSERT_TRUE(catalog_->ListLoadedModels(&list_again_context, {}, &listed).ok());
  EXPECT_EQ(listed.models_size(), 0);
  EXPECT_THAT(catalog_->UnloadModel(&unload_again_context, unload, &unloaded),
              IsStatus(grpc::NOT_FOUND, HasSubstr("m1")));
}

TEST_F(CatalogTest, InspectionComesFromTheWorker) {
  StartDaemon();
  grpc::ClientContext context;
  v1::InspectCheckpointRequest request;
  request.mutable_checkpoint()->set_name("known.safetensors");
  v1::InspectCheckpointResponse response;
  ASSERT_TRUE(catalog_->InspectCheckpoint(&context, request, &response).ok());
  EXPECT_EQ(response.inspection().family(), "mamba2");
}

TEST_F(CatalogTest, ServerInfoTellsVersionsLimitsAndWorkers) {
  StartDaemon();
  AwaitWorker();
  grpc::ClientContext context;
  v1::GetServerInfoResponse info;
  ASSERT_TRUE(catalog_->GetServerInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.versions().count("eigsvcd"), 1u);
  EXPECT_EQ(info.versions().at("eigsvc-worker"), "test");
  EXPECT_EQ(info.limits().at("queue_capacity"), 64);
  EXPECT_EQ(info.queue_capacity(), 64);
  EXPECT_FALSE(info.private_server());
  EXPECT_FALSE(info.draining());
  ASSERT_EQ(info.workers_size(), 1);
  EXPECT_EQ(info.workers(0).device(), "cpu");
  EXPECT_EQ(info.workers(0).process_id(), script_.last_pid);
  EXPECT_GT(info.start_time().seconds(), 0);
}

}  // namespace
}  // namespace eigsvc::testing
