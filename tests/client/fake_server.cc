#include "tests/client/fake_server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <thread>

#include "models/base/sha256.h"
#include "tests/client/sample_analysis.h"

namespace eigsvc::cli::testing {
namespace {

using grpc::ServerContext;
using grpc::ServerReader;
using grpc::ServerWriter;
using grpc::Status;

constexpr char kAnalysisId[] = "analysis-1";
constexpr char kTrainingId[] = "training-1";

std::string Digest(const std::string& bytes) {
  return Sha256::Of(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
}

}  // namespace

class FakeServer::Analyses final : public v1::AnalysisService::Service {
 public:
  explicit Analyses(FakeServer& fake) : fake_(fake) {}

  Status Analyze(ServerContext* context, const v1::AnalyzeRequest* request,
                 ServerWriter<v1::AnalyzeResponse>* writer) override {
    {
      const std::lock_guard lock(fake_.mutex_);
      fake_.analyze_requests_.push_back(*request);
    }
    if (!fake_.analyze_status.ok()) return fake_.analyze_status;
    return Stream<v1::AnalyzeResponse>(context, request->spec(), fake_.hang, writer);
  }

  Status WatchAnalysis(ServerContext* context, const v1::WatchAnalysisRequest* request,
                       ServerWriter<v1::WatchAnalysisResponse>* writer) override {
    if (request->analysis_id() != kAnalysisId) return {grpc::StatusCode::NOT_FOUND, "no such analysis"};
    return Stream<v1::WatchAnalysisResponse>(context, SampleAnalysis().spec(), fake_.hang, writer);
  }

  Status GetAnalysis(ServerContext*, const v1::GetAnalysisRequest* request,
                     v1::GetAnalysisResponse* response) override {
    if (Status status = fake_.Unary(); !status.ok()) return status;
    if (request->analysis_id() != kAnalysisId) return {grpc::StatusCode::NOT_FOUND, "no such analysis"};
    *response->mutable_analysis() = SampleAnalysis();
    return Status::OK;
  }

  // Two pages, to see that the client asks for the second.
  Status ListAnalyses(ServerContext*, const v1::ListAnalysesRequest* request,
                      v1::ListAnalysesResponse* response) override {
    if (Status status = fake_.Unary(); !status.ok()) return status;
    v1::Analysis* analysis = response->add_analyses();
    *analysis = SampleAnalysis();
    analysis->mutable_create_time()->set_seconds(request->page_token().empty() ? 1'700'000'200
                                                                               : 1'700'000'000);
    if (request->page_token().empty()) {
      response->set_next_page_token("2");
    } else {
      analysis->set_analysis_id("analysis-0");
      analysis->clear_result();
      analysis->set_state(v1::JOB_STATE_FAILED);
      analysis->mutable_error()->set_message("the worker died");
    }
    return Status::OK;
  }

  Status CancelAnalysis(ServerContext*, const v1::CancelAnalysisRequest* request,
                        v1::CancelAnalysisResponse*) override {
    const std::lock_guard lock(fake_.mutex_);
    fake_.cancelled_.push_back(request->analysis_id());
    if (fake_.obey_cancel) fake_.cancel_ = true;
    return Status::OK;
  }

  Status ReadEigenvalues(ServerContext*, const v1::ReadEigenvaluesRequest* request,
                         ServerWriter<v1::ReadEigenvaluesResponse>* writer) override {
    const std::string bytes(300'000, 'e');
    return fake_.Download(bytes, request->offset_bytes(), [&](const std::string& chunk) {
      v1::ReadEigenvaluesResponse response;
      response.set_chunk(chunk);
      response.set_total_bytes(static_cast<int64_t>(bytes.size()));
      return writer->Write(response);
    });
  }

 private:
  template <typename Response>
  Status Stream(ServerContext* context, const v1::AnalysisSpec& spec, bool hang,
                ServerWriter<Response>* writer) {
    const bool twin = spec.checkpoint().has_twin_seed();
    Response response;
    response.mutable_event()->set_analysis_id(kAnalysisId);
    response.mutable_event()->mutable_accepted()->set_queue_position(0);
    writer->Write(response);
    *response.mutable_event()->mutable_model() = SampleModel();
    if (twin) response.mutable_event()->mutable_model()->set_initial_seed(spec.checkpoint().twin_seed());
    writer->Write(response);
    *response.mutable_event()->mutable_progress() = SampleProgress(1000, 3000);
    writer->Write(response);
    if (hang) return fake_.Hang(context);
    *response.mutable_event()->mutable_result() = SampleResult(!twin);
    writer->Write(response);
    return Status::OK;
  }

  FakeServer& fake_;
};

class FakeServer::Trainings final : public v1::TrainingService::Service {
 public:
  explicit Trainings(FakeServer& fake) : fake_(fake) {}

  Status Train(ServerContext* context, const v1::TrainRequest* request,
               ServerWriter<v1::TrainResponse>* writer) override {
    {
      const std::lock_guard lock(fake_.mutex_);
      fake_.train_requests_.push_back(*request);
    }
    if (!fake_.train_status.ok()) return fake_.train_status;
    return Stream<v1::TrainResponse>(context, writer);
  }

  Status WatchTraining(ServerContext* context, const v1::WatchTrainingRequest* request,
                       ServerWriter<v1::WatchTrainingResponse>* writer) override {
    if (request->training_id() != kTrainingId) return {grpc::StatusCode::NOT_FOUND, "no such run"};
    return Stream<v1::WatchTrainingResponse>(context, writer);
  }

  Status GetTraining(ServerContext*, const v1::GetTrainingRequest* request,
                     v1::GetTrainingResponse* response) override {
    if (Status status = fake_.Unary(); !status.ok()) return status;
    if (request->training_id() != kTrainingId) return {grpc::StatusCode::NOT_FOUND, "no such run"};
    v1::Training& training = *response->mutable_training();
    training.set_training_id(kTrainingId);
    training.set_state(fake_.cancel_ ? v1::JOB_STATE_CANCELLED : v1::JOB_STATE_RUNNING);
    training.mutable_spec()->mutable_task()->set_name("mqar");
    if (!fake_.cancel_) return Status::OK;
    const std::lock_guard lock(fake_.mutex_);
    for (const auto& [digest, bytes] : fake_.checkpoints)
      (bytes == "last" ? training.mutable_last_sha256() : training.mutable_best_sha256())->assign(digest);
    return Status::OK;
  }

  Status ListTrainings(ServerContext*, const v1::ListTrainingsRequest*,
                       v1::ListTrainingsResponse* response) override {
    if (Status status = fake_.Unary(); !status.ok()) return status;
    v1::Training* training = response->add_trainings();
    training->set_training_id(kTrainingId);
    training->set_state(v1::JOB_STATE_RUNNING);
    training->mutable_spec()->mutable_task()->set_name("mqar");
    training->mutable_progress()->set_step(400);
    training->mutable_progress()->set_steps(1500);
    training->mutable_create_time()->set_seconds(1'700'000'100);
    return Status::OK;
  }

  Status CancelTraining(ServerContext*, const v1::CancelTrainingRequest* request,
                        v1::CancelTrainingResponse*) override {
    const std::lock_guard lock(fake_.mutex_);
    fake_.cancelled_.push_back(request->training_id());
    if (fake_.obey_cancel) fake_.cancel_ = true;
    return Status::OK;
  }

 private:
  template <typename Response>
  Status Stream(ServerContext* context, ServerWriter<Response>* writer) {
    Response response;
    response.mutable_event()->set_training_id(kTrainingId);
    response.mutable_event()->mutable_accepted();
    writer->Write(response);
    *response.mutable_event()->mutable_model() = SampleModel();
    writer->Write(response);
    const v1::AnalysisResult sample = SampleResult();
    v1::TrainingProgress& progress = *response.mutable_event()->mutable_progress();
    progress.set_step(400);
    progress.set_steps(1500);
    progress.set_loss(0.5);
    progress.set_learning_rate(0.001);
    progress.set_tokens_per_second(12345);
    *progress.mutable_score() = sample.score();
    progress.set_best_score(sample.score().value());
    *progress.mutable_sites() = sample.sites();
    writer->Write(response);
    if (fake_.hang) return fake_.Hang(context);
    v1::TrainingResult& result = *response.mutable_event()->mutable_result();
    result.set_steps(1500);
    result.set_best_step(1400);
    *result.mutable_best() = sample.score();
    *result.mutable_last() = sample.score();
    result.set_final_loss(0.25);
    const std::lock_guard lock(fake_.mutex_);
    for (const auto& [digest, bytes] : fake_.checkpoints)
      (bytes == "last" ? result.mutable_last_sha256() : result.mutable_best_sha256())->assign(digest);
    *result.mutable_sites() = sample.sites();
    result.mutable_total_time()->set_seconds(90);
    writer->Write(response);
    return Status::OK;
  }

  FakeServer& fake_;
};

class FakeServer::Catalog final : public v1::CatalogService::Service {
 public:
  explicit Catalog(FakeServer& fake) : fake_(fake) {}

  Status ListModels(ServerContext*, const v1::ListModelsRequest*, v1::ListModelsResponse* response) override {
    if (Status status = fake_.Unary(); !status.ok()) return status;
    v1::ModelFamily* model = response->add_models();
    model->set_name("mamba2");
    model->set_summary("Selective state space, scalar decay a head");
    model->add_layouts("state-spaces");
    model->add_layouts("paper");
    model->set_trainable(true);
    model->set_transition("λ = exp(Δ·A) per head and step, real in (0, 1]");
    model->set_reference("arXiv 2405.21060");
    v1::LayoutConformance* conformance = model->add_conformance();
    conformance->set_layout("state-spaces");
    conformance->set_cases(13);
    conformance->set_references("transformers 5.23.0");
    conformance->set_logits_float32(2e-6);
    model->add_conformance()->set_layout("paper");
    return Status::OK;
  }

  Status ListTasks(ServerContext*, const v1::ListTasksRequest*, v1::ListTasksResponse* response) override {
    if (Status status = fake_.Unary(); !status.ok()) return status;
    v1::TaskInfo* task = response->add_tasks();
    task->set_name("mqar");
    task->set_summary("Multi-query associative recall");
    task->set_metric("accuracy");
    v1::TaskParameterInfo* parameter = task->add_parameters();
    parameter->set_name("pairs");
    parameter->set_type("integer");
    parameter->set_default_json("4");
    parameter->set_meaning("Key-value pairs, at least 1");
    v1::TaskPresetInfo* preset = task->add_presets();
    preset->set_name("small");
    preset->set_parameters_json(R"({"pairs": 2})");
    preset->set_meaning("For two cores");
    v1::TaskInfo* reviews = response->add_tasks();
    reviews->set_name("imdb");
    reviews->set_summary("Film reviews");
    reviews->set_metric("accuracy");
    reviews->set_needs_data(true);
    reviews->mutable_data()->add_names("imdb");
    reviews->mutable_data()->add_names("aclImdb_v1.tar.gz");
    v1::TaskFileInfo* file = reviews->mutable_data()->add_files();
    file->set_name("aclImdb_v1.tar.gz");
    file->set_checksum("md5 7c2a");
    file->set_meaning("50,000 reviews");
    reviews->mutable_data()->set_layout("the .tar.gz as it is, or its folders");
    v1::TaskInfo* found = response->add_tasks();
    *found = *reviews;
    found->set_name("found");
    found->mutable_data()->set_found_name("aclImdb_v1.tar.gz");
    return Status::OK;
  }

  Status ListCheckpoints(ServerContext*, const v1::ListCheckpointsRequest*,
                         v1::ListCheckpointsResponse* response) override {
    if (Status status = fake_.Unary(); !status.ok()) return status;
    v1::Checkpoint* checkpoint = response->add_checkpoints();
    checkpoint->set_name("demo/mamba2.safetensors");
    checkpoint->set_size_bytes(300'000);
    return Status::OK;
  }

  Status InspectCheckpoint(ServerContext*, const v1::InspectCheckpointRequest* request,
                           v1::InspectCheckpointResponse* response) override {
    if (Status status = fake_.Unary(); !status.ok()) return status;
    response->mutable_inspection()->set_family("mamba2");
    response->mutable_inspection()->set_sha256(request->checkpoint().sha256());
    return Status::OK;
  }

  Status UploadCheckpoint(ServerContext*, ServerReader<v1::UploadCheckpointRequest>* reader,
                          v1::UploadCheckpointResponse* response) override {
    return Upload<v1::UploadCheckpointRequest>(reader, &fake_.checkpoint_uploads_, response);
  }

  Status UploadData(ServerContext*, ServerReader<v1::UploadDataRequest>* reader,
                    v1::UploadDataResponse* response) override {
    return Upload<v1::UploadDataRequest>(reader, &fake_.data_uploads_, response);
  }

  Status DownloadCheckpoint(ServerContext*, const v1::DownloadCheckpointRequest* request,
                            ServerWriter<v1::DownloadCheckpointResponse>* writer) override {
    const auto found = fake_.checkpoints.find(request->sha256());
    if (found == fake_.checkpoints.end()) return {grpc::StatusCode::NOT_FOUND, "no such checkpoint"};
    return fake_.Download(found->second, request->offset_bytes(), [&](const std::string& chunk) {
      v1::DownloadCheckpointResponse response;
      response.set_chunk(chunk);
      response.set_total_bytes(static_cast<int64_t>(found->second.size()));
      return writer->Write(response);
    });
  }

  Status LoadModel(ServerContext*, const v1::LoadModelRequest*, v1::LoadModelResponse* response) override {
    response->mutable_model()->set_model_id("model-1");
    *response->mutable_model()->mutable_model() = SampleModel();
    response->mutable_model()->set_size_bytes(280'576);
    return Status::OK;
  }

  Status UnloadModel(ServerContext*, const v1::UnloadModelRequest* request,
                     v1::UnloadModelResponse*) override {
    if (request->model_id() != "model-1") return {grpc::StatusCode::NOT_FOUND, "it is not loaded"};
    return Status::OK;
  }

  Status ListLoadedModels(ServerContext*, const v1::ListLoadedModelsRequest*,
                          v1::ListLoadedModelsResponse* response) override {
    if (Status status = fake_.Unary(); !status.ok()) return status;
    v1::LoadModelResponse loaded;
    LoadModel(nullptr, nullptr, &loaded);
    *response->add_models() = loaded.model();
    return Status::OK;
  }

  Status GetServerInfo(ServerContext*, const v1::GetServerInfoRequest*,
                       v1::GetServerInfoResponse* response) override {
    if (Status status = fake_.Unary(); !status.ok()) return status;
    (*response->mutable_versions())["eigsvcd"] = "0.1.0";
    response->set_queue_capacity(64);
    (*response->mutable_limits())["model_memory_bytes"] = 1 << 30;
    v1::WorkerInfo* worker = response->add_workers();
    worker->set_device("cpu");
    worker->set_state("idle");
    worker->set_process_id(4242);
    response->mutable_start_time()->set_seconds(1'700'000'000);
    return Status::OK;
  }

 private:
  // As the contract says: the answer comes early when the content is known.
  template <typename Request, typename Response>
  Status Upload(ServerReader<Request>* reader, std::vector<FakeUpload>* uploads, Response* response) {
    FakeUpload upload;
    Request request;
    if (!reader->Read(&request) || !request.has_manifest()) {
      return {grpc::StatusCode::INVALID_ARGUMENT, "the first message must be the manifest"};
    }
    upload.manifest = request.manifest();
    response->set_sha256(upload.manifest.files(0).sha256());
    response->set_existed(fake_.known_digests.count(upload.manifest.files(0).sha256()) > 0);
    while (!response->existed() && reader->Read(&request)) upload.bytes += request.chunk();
    size_t offset = 0;
    for (const v1::UploadFile& file : upload.manifest.files()) {
      if (response->existed()) break;
      if (Digest(upload.bytes.substr(offset, file.size_bytes())) != file.sha256()) {
        return {grpc::StatusCode::INVALID_ARGUMENT,
                "the bytes of " + file.name() + " do not match their digest"};
      }
      offset += file.size_bytes();
    }
    const std::lock_guard lock(fake_.mutex_);
    uploads->push_back(std::move(upload));
    return Status::OK;
  }

  FakeServer& fake_;
};

FakeServer::FakeServer(const std::string& address)
    : analyses_(std::make_unique<Analyses>(*this)),
      catalog_(std::make_unique<Catalog>(*this)),
      trainings_(std::make_unique<Trainings>(*this)) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(analyses_.get());
  builder.RegisterService(catalog_.get());
  builder.RegisterService(trainings_.get());
  server_ = builder.BuildAndStart();
  address_ = address.rfind("unix:", 0) == 0 ? address : "127.0.0.1:" + std::to_string(port);
}

FakeServer::~FakeServer() {
  cancel_ = true;
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
}

std::vector<v1::AnalyzeRequest> FakeServer::analyze_requests() const { return Copy(analyze_requests_); }
std::vector<v1::TrainRequest> FakeServer::train_requests() const { return Copy(train_requests_); }
std::vector<FakeUpload> FakeServer::checkpoint_uploads() const { return Copy(checkpoint_uploads_); }
std::vector<FakeUpload> FakeServer::data_uploads() const { return Copy(data_uploads_); }
std::vector<std::string> FakeServer::cancelled() const { return Copy(cancelled_); }

int FakeServer::unary_calls() const {
  const std::lock_guard lock(mutex_);
  return unary_calls_;
}

Status FakeServer::Unary() {
  const std::lock_guard lock(mutex_);
  ++unary_calls_;
  if (unary_calls_ <= unary_failures) return {grpc::StatusCode::UNAVAILABLE, "restarting"};
  return unary_status;
}

Status FakeServer::Hang(ServerContext* context) {
  while (!cancel_ && !context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return {grpc::StatusCode::CANCELLED, "cancelled"};
}

Status FakeServer::Download(const std::string& bytes, int64_t offset,
                            const std::function<bool(const std::string&)>& write) {
  constexpr size_t kChunk = 100'000;
  for (size_t at = static_cast<size_t>(offset); at < bytes.size(); at += kChunk) {
    if (download_break_after >= 0 && at >= static_cast<size_t>(download_break_after)) {
      download_break_after = -1;
      return {grpc::StatusCode::UNAVAILABLE, "the connection broke"};
    }
    if (!write(bytes.substr(at, kChunk))) break;
  }
  return Status::OK;
}

}  // namespace eigsvc::cli::testing
