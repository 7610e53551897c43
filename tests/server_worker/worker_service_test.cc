#include "server/worker/worker_service.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "server/worker/device_info.h"
#include "tests/server_worker/worker_fixture.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/stopping.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::AnalysisRequest;
using ::eigsvc::testing::CheckpointAt;
using ::eigsvc::testing::RunningWorker;
using ::eigsvc::testing::SaveMamba2;
using ::eigsvc::testing::SmallMqar;
using ::eigsvc::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;

// A whole checkpoint of zeros whose reading takes seconds and which takes no room on the disk.
void SaveSparse(const std::string& path) {
  constexpr int64_t kElements = int64_t{1} << 30;
  const std::string header = absl::StrCat(R"({"zeros":{"dtype":"F32","shape":[)", kElements,
                                          R"(],"data_offsets":[0,)", 4 * kElements, "]}}");
  const uint64_t length = header.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof(length));
  file << header;
  file.close();
  std::filesystem::resize_file(path, 8 + header.size() + 4 * kElements);
}

constexpr int64_t kHours = 10'000'000;  // examples: more than any test waits for

class WorkerServiceTest : public ::testing::Test {
 protected:
  WorkerServiceTest() { SaveMamba2(model_, 1); }

  // Starts an endless analysis and returns once it computes.
  struct Endless {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<worker::v1::RunAnalysisResponse>> reader;
  };
  void StartEndless(Endless* endless) {
    endless->reader = worker_.stub().RunAnalysis(&endless->context, AnalysisRequest(model_, kHours));
    worker::v1::RunAnalysisResponse event;
    while (endless->reader->Read(&event)) {
      if (event.event().progress().examples_done() > 0) return;
    }
    FAIL() << endless->reader->Finish().error_message();
  }

  TempDir dir_;
  const std::string model_ = dir_.Path("model.safetensors");
  RunningWorker worker_;
};

TEST_F(WorkerServiceTest, AnAnalysisTellsLoadModelProgressAndResult) {
  const auto outcome = worker_.Analyze(AnalysisRequest(model_, 64));
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  ASSERT_GE(outcome.events.size(), 2u);
  size_t i = 0;
  if (outcome.events[0].event().has_progress()) {  // may give way to the model
    EXPECT_EQ(outcome.events[0].event().progress().phase(), "load");
    ++i;
  }
  ASSERT_TRUE(outcome.events[i].event().has_model());
  const v1::Model& model = outcome.events[i].event().model();
  EXPECT_EQ(model.family(), "mamba2");
  EXPECT_EQ(model.layers(), 2);
  EXPECT_EQ(model.vocab_size(), 64);
  EXPECT_EQ(model.dtype(), "float32");
  EXPECT_EQ(model.device(), "cpu");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(model_));
  EXPECT_EQ(model.checkpoint_sha256(), archive.sha256());
  for (++i; i + 1 < outcome.events.size(); ++i) {
    ASSERT_TRUE(outcome.events[i].event().has_progress());
    EXPECT_EQ(outcome.events[i].event().progress().phase(), "run");
    EXPECT_EQ(outcome.events[i].event().progress().examples_total(), 64);
  }
  for (const auto& event : outcome.events) EXPECT_EQ(event.event().analysis_id(), "analysis-1");

  ASSERT_TRUE(outcome.events.back().event().has_result());
  const v1::AnalysisResult& result = outcome.events.back().event().result();
  EXPECT_EQ(result.examples(), 64);
  EXPECT_EQ(result.tokens(), 64 * 32);
  EXPECT_EQ(result.definition(), "EXACT");
  EXPECT_EQ(result.score().metric(), "accuracy");
  EXPECT_EQ(result.score().n(), 64);
  EXPECT_EQ(result.task().name(), "mqar");
  EXPECT_EQ(result.task().split(), "test");
  EXPECT_EQ(result.task().seed(), 7u);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings resolved,
                              Settings::Parse(result.task().parameters_json(), "result"));
  EXPECT_EQ(*resolved.Int("vocab_size"), 64);
  EXPECT_TRUE(resolved.Has("random_non_queries")) << "defaults are filled in";
  EXPECT_EQ(result.batch_size(), 8);
  EXPECT_GT(result.total_time().seconds() + result.total_time().nanos(), 0);
  EXPECT_EQ(result.versions().at("eigsvc-worker"), Versions().at("eigsvc-worker"));
  EXPECT_EQ(result.versions().count("libtorch"), 1u);

  ASSERT_GT(result.sites_size(), 0);
  int64_t eigenvalues = 0;
  for (const v1::SiteSpectrum& site : result.sites()) {
    EXPECT_EQ(site.site().mixer(), "mamba2");
    EXPECT_EQ(site.site().unit_kind(), v1::UNIT_KIND_HEAD);
    EXPECT_EQ(site.summary().count(), 64 * 31) << "one a step, the first excluded";
    EXPECT_EQ(site.summary().nonfinite_count(), 0);
    EXPECT_LE(site.summary().max(), 0) << "exp(-dt·A) is at most 1";
    eigenvalues += site.summary().count();
  }
  EXPECT_EQ(result.eigenvalues(), eigenvalues);
}

TEST_F(WorkerServiceTest, SeveralDevicesShareAnAnalysisAndComeToTheSame) {
  WorkerServiceOptions options;
  options.devices = std::vector<c10::Device>(3, c10::Device(c10::kCPU));
  options.device_name = "cpu+cpu+cpu";
  RunningWorker several(std::move(options));
  const auto one = worker_.Analyze(AnalysisRequest(model_, 64)),
             three = several.Analyze(AnalysisRequest(model_, 64));
  ASSERT_TRUE(three.status.ok()) << three.status.error_message();
  const auto &a = one.events.back().event().result(), &b = three.events.back().event().result();
  EXPECT_EQ(b.examples(), 64);
  EXPECT_EQ(b.eigenvalues(), a.eigenvalues());
  EXPECT_EQ(b.score().value(), a.score().value());
  ASSERT_EQ(b.sites_size(), a.sites_size());
  for (int i = 0; i < a.sites_size(); ++i) {
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(a.sites(i), b.sites(i)));
  }
  // An export is written by the first alone.
  worker::v1::RunAnalysisRequest exporting = AnalysisRequest(model_, 64);
  exporting.set_export_path(dir_.Path("values.safetensors"));
  const auto exported = several.Analyze(exporting);
  ASSERT_TRUE(exported.status.ok()) << exported.status.error_message();
  EXPECT_EQ(exported.events.back().event().result().eigenvalues(), a.eigenvalues());
  EXPECT_GT(exported.events.back().event().result().eigenvalues_bytes(), 0);
}

TEST_F(WorkerServiceTest, TheSameRequestGivesTheSameSpectraFromAWarmPool) {
  const auto first = worker_.Analyze(AnalysisRequest(model_, 64));
  const auto second = worker_.Analyze(AnalysisRequest(model_, 64));
  ASSERT_TRUE(second.status.ok()) << second.status.error_message();
  const auto& a = first.events.back().event().result();
  const auto& b = second.events.back().event().result();
  ASSERT_EQ(a.sites_size(), b.sites_size());
  for (int i = 0; i < a.sites_size(); ++i) {
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(a.sites(i), b.sites(i)));
  }
  EXPECT_EQ(a.score().value(), b.score().value());
  grpc::ClientContext context;
  worker::v1::ListLoadedResponse loaded;
  ASSERT_TRUE(worker_.stub().ListLoaded(&context, {}, &loaded).ok());
  EXPECT_EQ(loaded.models_size(), 1);
}

TEST_F(WorkerServiceTest, WindowsAreOfTheSameSteps) {
  worker::v1::RunAnalysisRequest request = AnalysisRequest(model_, 16);
  const auto steps = worker_.Analyze(request);
  request.mutable_spec()->mutable_window()->set_length(5);
  request.mutable_spec()->mutable_window()->set_stride(0);  // as many
  const auto windows = worker_.Analyze(request);
  ASSERT_TRUE(windows.status.ok()) << windows.status.error_message();
  const auto& of_steps = steps.events.back().event().result();
  const auto& of_windows = windows.events.back().event().result();
  EXPECT_FALSE(of_steps.has_window());
  EXPECT_EQ(of_windows.window().length(), 5);
  EXPECT_EQ(of_windows.window().stride(), 5);
  ASSERT_EQ(of_windows.sites_size(), of_steps.sites_size());
  for (int i = 0; i < of_steps.sites_size(); ++i) {
    const auto &a = of_steps.sites(i).summary(), &b = of_windows.sites(i).summary();
    const int64_t per_example = a.count() / 16;
    EXPECT_EQ(b.count(), per_example / 5 * 16);
    // Mamba-2's log λ = -Δ·A, and windows cover all steps of a sequence but fewer than five.
    EXPECT_GT(b.mean(), 5 * a.min());
    EXPECT_LT(b.mean(), 5 * a.max());
    EXPECT_DOUBLE_EQ(b.noise_floor(), 5 * a.noise_floor());
  }
}

TEST_F(WorkerServiceTest, ATwinIsDeterministicAndNotTheModel) {
  worker::v1::RunAnalysisRequest request = AnalysisRequest(model_, 16);
  const auto trained = worker_.Analyze(request);
  request.mutable_checkpoint()->mutable_ref()->set_twin_seed(11);
  const auto twin = worker_.Analyze(request);
  ASSERT_TRUE(twin.status.ok()) << twin.status.error_message();
  RunningWorker other;  // another process in all but name: nothing is shared
  const auto again = other.Analyze(request);
  ASSERT_TRUE(again.status.ok()) << again.status.error_message();
  const auto& mean = [](const RunningWorker::Outcome& outcome) {
    return outcome.events.back().event().result().sites(0).summary().mean();
  };
  EXPECT_EQ(mean(twin), mean(again));
  EXPECT_NE(mean(twin), mean(trained));
}

TEST_F(WorkerServiceTest, EachTaskParameterIsTheRequestsElseTheRecordedOne) {
  const std::string path = dir_.Path("recorded.safetensors");
  SaveMamba2(path, 1, "{}",
             R"({"task":{"name":"mqar","parameters":)" + SmallMqar(R"(,"test_examples":40)") + "}}");
  worker::v1::RunAnalysisRequest request = AnalysisRequest(path, 0);
  request.mutable_spec()->mutable_task()->clear_parameters_json();
  const auto recorded = worker_.Analyze(request);
  ASSERT_TRUE(recorded.status.ok()) << recorded.status.error_message();
  EXPECT_EQ(recorded.events.back().event().result().examples(), 40);
  request.mutable_spec()->mutable_task()->set_parameters_json(R"({"test_examples":24})");
  const auto given = worker_.Analyze(request);
  ASSERT_TRUE(given.status.ok())
      << given.status.error_message();  // at the default 8192 ids it would be refused
  EXPECT_EQ(given.events.back().event().result().examples(), 24);
}

TEST_F(WorkerServiceTest, ATaskBeyondTheVocabularyNamesBothAndTheRemedy) {
  worker::v1::RunAnalysisRequest request = AnalysisRequest(model_, 8);
  request.mutable_spec()->mutable_task()->clear_parameters_json();  // MQAR's own default: 8192
  const auto outcome = worker_.Analyze(request);
  EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(outcome.status.error_message(), AllOf(HasSubstr("mqar"), HasSubstr("8191"),
                                                    HasSubstr("vocabulary of 64"), HasSubstr("vocab_size")));
}

TEST_F(WorkerServiceTest, CancellingIdlesTheDeviceWithinAQuarterSecond) {
  Endless endless;
  ASSERT_NO_FATAL_FAILURE(StartEndless(&endless));
  ASSERT_TRUE(worker_.Busy());
  const absl::Time cancelled = absl::Now();
  endless.context.TryCancel();
  worker_.WaitUntilIdle();
  EXPECT_LT(absl::Now() - cancelled, testing::kStopLimit);
  EXPECT_EQ(endless.reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  // And the worker takes the next job.
  EXPECT_TRUE(worker_.Analyze(AnalysisRequest(model_, 8)).status.ok());
}

TEST_F(WorkerServiceTest, ADeadlineEndsTheJob) {
  grpc::ClientContext context;
  const absl::Time deadline = absl::Now() + absl::Milliseconds(700);
  context.set_deadline(absl::ToChronoTime(deadline));
  const auto reader = worker_.stub().RunAnalysis(&context, AnalysisRequest(model_, kHours));
  worker::v1::RunAnalysisResponse event;
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  worker_.WaitUntilIdle();
  EXPECT_LT(absl::Now() - deadline, testing::kStopLimit);
}

TEST_F(WorkerServiceTest, ASecondJobIsRefusedAndTheStatusStillAnswers) {
  Endless endless;
  ASSERT_NO_FATAL_FAILURE(StartEndless(&endless));
  const auto second = worker_.Analyze(AnalysisRequest(model_, 8));
  EXPECT_EQ(second.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(second.status.error_message(), HasSubstr("one at a time"));
  for (int i = 0; i < 20; ++i) {
    const absl::Time asked = absl::Now();
    EXPECT_TRUE(worker_.Busy());
    EXPECT_LT(absl::Now() - asked, testing::kStopLimit);
  }
  endless.context.TryCancel();
}

TEST_F(WorkerServiceTest, AModelCanBeLoadedAndUnloadedWhileAJobRuns) {
  Endless endless;
  ASSERT_NO_FATAL_FAILURE(StartEndless(&endless));
  const std::string other = dir_.Path("other.safetensors");
  SaveMamba2(other, 2);
  worker::v1::LoadRequest load;
  *load.mutable_checkpoint() = CheckpointAt(other);
  worker::v1::LoadResponse loaded;
  grpc::ClientContext load_context;
  const grpc::Status status = worker_.stub().Load(&load_context, load, &loaded);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(loaded.model().model().family(), "mamba2");
  EXPECT_GT(loaded.model().size_bytes(), 0);

  grpc::ClientContext list_context;
  worker::v1::ListLoadedResponse list;
  ASSERT_TRUE(worker_.stub().ListLoaded(&list_context, {}, &list).ok());
  ASSERT_EQ(list.models_size(), 2);
  EXPECT_EQ(list.models(0).model_id(), loaded.model().model_id());

  // The running job's own model too: it keeps it.
  for (const v1::LoadedModel& model : list.models()) {
    worker::v1::UnloadRequest unload;
    unload.set_model_id(model.model_id());
    worker::v1::UnloadResponse unloaded;
    grpc::ClientContext context;
    EXPECT_TRUE(worker_.stub().Unload(&context, unload, &unloaded).ok());
    grpc::ClientContext again;
    EXPECT_EQ(worker_.stub().Unload(&again, unload, &unloaded).error_code(), grpc::StatusCode::NOT_FOUND);
  }
  EXPECT_TRUE(worker_.Busy());
  worker::v1::RunAnalysisResponse event;
  EXPECT_TRUE(endless.reader->Read(&event));
  endless.context.TryCancel();
}

TEST_F(WorkerServiceTest, BadInputHasItsCodeAndNamesTheThing) {
  const std::string text = dir_.Path("text.safetensors"), cut = dir_.Path("cut.safetensors");
  std::ofstream(text) << "no checkpoint at all";
  std::filesystem::copy_file(model_, cut);
  std::filesystem::resize_file(cut, std::filesystem::file_size(cut) - 100);
  struct Case {
    const char* name;
    std::function<void(worker::v1::RunAnalysisRequest*)> spoil;
    grpc::StatusCode code;
    const char* says;
  };
  const Case cases[] = {
      {"no such file", [&](auto* r) { r->mutable_checkpoint()->set_path(dir_.Path("absent")); },
       grpc::StatusCode::NOT_FOUND, "absent"},
      {"no checkpoint", [&](auto* r) { r->mutable_checkpoint()->set_path(text); },
       grpc::StatusCode::INVALID_ARGUMENT, "text.safetensors"},
      {"truncated", [&](auto* r) { r->mutable_checkpoint()->set_path(cut); }, grpc::StatusCode::DATA_LOSS,
       "cut.safetensors"},
      {"no source", [](auto* r) { r->clear_checkpoint(); }, grpc::StatusCode::INVALID_ARGUMENT, "no source"},
      {"task", [](auto* r) { r->mutable_spec()->mutable_task()->set_name("mqqr"); },
       grpc::StatusCode::NOT_FOUND, "mqar"},
      {"split", [](auto* r) { r->mutable_spec()->mutable_task()->set_split("dev"); },
       grpc::StatusCode::INVALID_ARGUMENT, "dev"},
      {"parameter", [](auto* r) { r->mutable_spec()->mutable_task()->set_parameters_json(R"({"vocab":9})"); },
       grpc::StatusCode::INVALID_ARGUMENT, "vocab"},
      {"parameters", [](auto* r) { r->mutable_spec()->mutable_task()->set_parameters_json("{"); },
       grpc::StatusCode::INVALID_ARGUMENT, "JSON"},
      {"dtype", [](auto* r) { r->mutable_spec()->set_dtype("float8"); }, grpc::StatusCode::INVALID_ARGUMENT,
       "float8"},
      {"examples", [](auto* r) { r->mutable_spec()->set_examples(-1); }, grpc::StatusCode::INVALID_ARGUMENT,
       "examples"},
      {"batch", [](auto* r) { r->mutable_spec()->set_batch_size(-1); }, grpc::StatusCode::INVALID_ARGUMENT,
       "batch"},
      {"steps", [](auto* r) { r->mutable_spec()->set_max_steps(-1); }, grpc::StatusCode::INVALID_ARGUMENT,
       "steps"},
      {"settings", [](auto* r) { r->mutable_checkpoint()->mutable_ref()->set_settings_json("nope"); },
       grpc::StatusCode::INVALID_ARGUMENT, "settings_json"},
      {"export directory", [&](auto* r) { r->set_export_path(dir_.Path("absent/export.safetensors")); },
       grpc::StatusCode::NOT_FOUND, "export.safetensors"},
      {"export budget",
       [&](auto* r) {
         r->set_export_path(dir_.Path("export.safetensors"));
         r->set_max_export_bytes(100);
       },
       grpc::StatusCode::RESOURCE_EXHAUSTED, "100"},
  };
  for (const Case& bad : cases) {
    worker::v1::RunAnalysisRequest request = AnalysisRequest(model_, 8);
    bad.spoil(&request);
    const auto outcome = worker_.Analyze(request);
    EXPECT_EQ(outcome.status.error_code(), bad.code) << bad.name << ": " << outcome.status.error_message();
    EXPECT_THAT(outcome.status.error_message(), HasSubstr(bad.says)) << bad.name;
  }
  EXPECT_FALSE(std::filesystem::exists(dir_.Path("export.safetensors")));
  EXPECT_TRUE(worker_.Analyze(AnalysisRequest(model_, 8)).status.ok()) << "the worker still works";
}

TEST_F(WorkerServiceTest, AnExportIsAnArchiveWithEveryEigenvalueAndItsProvenance) {
  worker::v1::RunAnalysisRequest request = AnalysisRequest(model_, 16);
  request.set_export_path(dir_.Path("export.safetensors"));
  const auto outcome = worker_.Analyze(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  const v1::AnalysisResult& result = outcome.events.back().event().result();
  EXPECT_EQ(result.eigenvalues_bytes(),
            static_cast<int64_t>(std::filesystem::file_size(request.export_path())));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(request.export_path()));
  for (const char* layer : {"0", "1"}) {
    const auto found = archive.tensors().find(std::string("layers.") + layer + ".mamba2.log_magnitude");
    ASSERT_NE(found, archive.tensors().end());
    ASSERT_EQ(found->second.shape.size(), 4u);
    EXPECT_EQ(found->second.shape[0], 16);
    EXPECT_EQ(found->second.shape[1], 31);
    // The same numbers as the spectrum of unit 0: its mean is exact, so it can be recomputed.
    const int64_t units = found->second.shape[2], stored = found->second.shape[3];
    double sum = 0;
    for (int64_t i = 0; i < 16 * 31; ++i) sum += ElementAsDouble(found->second, i * units * stored);
    const int64_t site = std::string(layer) == "0" ? 0 : units;
    EXPECT_EQ(result.sites(site).site().unit(), 0);
    EXPECT_NEAR(result.sites(site).summary().mean(), sum / (16 * 31), 1e-9 * std::abs(sum));
  }
  EXPECT_EQ(*archive.settings().Text("analysis_id"), "analysis-1");
  EXPECT_EQ(*archive.settings().Text("definition"), "EXACT");
  EXPECT_EQ(*archive.settings().Text("task"), "mqar");
  EXPECT_EQ(*archive.settings().Text("task_seed"), "7");
  EXPECT_EQ(
      *archive.settings().Text("checkpoint_sha256"),
      outcome.events[outcome.events[0].event().has_model() ? 0 : 1].event().model().checkpoint_sha256());
}

TEST_F(WorkerServiceTest, InspectDescribesWithoutRunning) {
  worker::v1::InspectRequest request;
  *request.mutable_checkpoint() = CheckpointAt(model_);
  worker::v1::InspectResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(worker_.stub().Inspect(&context, request, &response).ok());
  EXPECT_EQ(response.inspection().family(), "mamba2");
  EXPECT_EQ(response.inspection().layers(), 2);
  EXPECT_EQ(response.inspection().problem(), "");
  grpc::ClientContext none;
  request.clear_checkpoint();
  EXPECT_EQ(worker_.stub().Inspect(&none, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(WorkerServiceTest, StatusAndCatalogTellWhatThisWorkerIs) {
  WorkerServiceOptions options;
  options.self_test = "all well";
  RunningWorker worker(std::move(options));
  grpc::ClientContext context;
  worker::v1::GetStatusResponse status;
  ASSERT_TRUE(worker.stub().GetStatus(&context, {}, &status).ok());
  EXPECT_EQ(status.device(), "cpu");
  EXPECT_THAT(status.device_description(), HasSubstr("thread"));
  EXPECT_FALSE(status.busy());
  EXPECT_EQ(status.self_test(), "all well");
  EXPECT_EQ(status.versions().size(), Versions().size());
  grpc::ClientContext catalog_context;
  worker::v1::GetCatalogResponse catalog;
  ASSERT_TRUE(worker.stub().GetCatalog(&catalog_context, {}, &catalog).ok());
  EXPECT_GT(catalog.models_size(), 0);
  EXPECT_GT(catalog.tasks_size(), 0);
}

TEST_F(WorkerServiceTest, ATrainingStreamsAndItsCheckpointCanBeAnalysed) {
  worker::v1::RunTrainingRequest request;
  request.set_training_id("training-1");
  request.mutable_start()->mutable_ref()->mutable_initializer()->set_family("mamba2");
  request.mutable_start()->mutable_ref()->mutable_initializer()->set_seed(3);
  request.mutable_spec()->mutable_task()->set_name("mqar");
  request.mutable_spec()->mutable_task()->set_parameters_json(SmallMqar(R"(,"test_examples":64)"));
  request.mutable_spec()->set_steps(6);
  request.mutable_spec()->set_batch_size(8);
  request.mutable_spec()->set_eval_every(3);
  request.mutable_spec()->set_eval_examples(16);
  request.set_output_path(dir_.Path("trained.safetensors"));
  request.set_last_path(dir_.Path("trained.last.safetensors"));
  const auto train = [&](const worker::v1::RunTrainingRequest& what) {
    std::vector<worker::v1::RunTrainingResponse> events;
    grpc::ClientContext context;
    const auto reader = worker_.stub().RunTraining(&context, what);
    for (worker::v1::RunTrainingResponse event; reader->Read(&event);) events.push_back(event);
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return events;
  };
  const auto events = train(request);
  ASSERT_GE(events.size(), 2u);
  EXPECT_TRUE(events[0].event().has_model());
  EXPECT_EQ(events[0].event().training_id(), "training-1");
  ASSERT_TRUE(events.back().event().has_result());
  EXPECT_EQ(events.back().event().result().steps(), 6);
  EXPECT_GT(events.back().event().result().versions_size(), 0);
  EXPECT_GT(events.back().event().result().sites_size(), 0);
  for (const std::string& path : {events.back().best_path(), events.back().last_path()}) {
    EXPECT_TRUE(std::filesystem::exists(path)) << path;
  }

  // The best checkpoint needs nothing else: it knows its settings and its task.
  worker::v1::RunAnalysisRequest analysis = AnalysisRequest(events.back().best_path(), 0);
  analysis.mutable_spec()->mutable_task()->clear_parameters_json();
  const auto outcome = worker_.Analyze(analysis);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.events.back().event().result().examples(), 64);

  // And the last one goes on where it stopped.
  request.clear_start();
  *request.mutable_start() = CheckpointAt(events.back().last_path());
  request.mutable_spec()->set_resume(true);
  request.mutable_spec()->set_steps(8);
  request.set_output_path(dir_.Path("resumed.safetensors"));
  request.set_last_path(dir_.Path("resumed.last.safetensors"));
  const auto resumed = train(request);
  ASSERT_FALSE(resumed.empty());
  EXPECT_EQ(resumed.back().event().result().steps(), 8);
}

TEST_F(WorkerServiceTest, EveryFamilyRunsUntrained) {
  // Distinct eigenvalues of a unit at a step by mixer, where there are more than one: a head of 8 keys has 8,
  // of one delta rule with one decay two, the written direction's and that of all others; a channel of
  // Mamba-1 has 16; a layer of a recurrent network one for each number of its state. Kimi-Linear's heads have
  // 16 keys.
  const std::map<std::string, int64_t> kPerStep = {
      {"delta_net", 2},       {"gated_delta_net", 2}, {"gla", 8},  {"gru", 32},  {"hgrn2", 8}, {"kda", 8},
      {"lstm", 64},           {"mamba", 16},          {"rnn", 32}, {"rwkv6", 8}, {"rwkv7", 8}, {"slstm", 12},
      {"kimi_linear kda", 16}};
  // All eigenvalues of a unit whose transition is constant, by mixer or by family: linear_attn's sums without
  // a normaliser, other families' linear attention does not.
  const std::map<std::string, int64_t> kConstant = {{"convolution", 1}, {"linear_attn", 1}, {"lru", 32},
                                                    {"retention", 1},   {"s4", 16},         {"s4d", 16},
                                                    {"s5", 32}};
  grpc::ClientContext context;
  worker::v1::GetCatalogResponse catalog;
  ASSERT_TRUE(worker_.stub().GetCatalog(&context, {}, &catalog).ok());
  for (const v1::ModelFamily& family : catalog.models()) {
    if (!family.trainable()) continue;
    worker::v1::RunAnalysisRequest request = AnalysisRequest("", 16);
    request.mutable_checkpoint()->mutable_ref()->mutable_initializer()->set_family(family.name());
    request.mutable_checkpoint()->mutable_ref()->set_settings_json(R"({"vocab_size": 64})");
    const auto outcome = worker_.Analyze(request);
    ASSERT_TRUE(outcome.status.ok()) << family.name() << ": " << outcome.status.error_message();
    const v1::AnalysisResult& result = outcome.events.back().event().result();
    EXPECT_GT(result.sites_size(), 0) << family.name();
    for (const v1::SiteSpectrum& site : result.sites()) {
      const std::string& mixer = site.site().mixer();
      const std::string both = absl::StrCat(family.name(), " ", mixer);
      const auto of_step = kPerStep.find(kPerStep.contains(both) ? both : mixer);
      const auto constant = kConstant.find(kConstant.contains(mixer) ? mixer : family.name());
      const int64_t per_step = of_step == kPerStep.end() ? 1 : of_step->second;
      EXPECT_EQ(site.summary().count(), constant == kConstant.end() ? 16 * 31 * per_step : constant->second)
          << family.name() << " " << mixer;
      EXPECT_EQ(site.summary().nonfinite_count(), 0) << family.name();
    }
  }
}

// What a user types who has no checkpoint: a family and a task, and nothing of vocabularies.
TEST_F(WorkerServiceTest, AFreshModelsVocabularyIsTheTasks) {
  worker::v1::RunAnalysisRequest request = AnalysisRequest("", 2);
  request.mutable_checkpoint()->mutable_ref()->mutable_initializer()->set_family("mamba2");
  request.mutable_spec()->mutable_task()->clear_parameters_json();
  const auto vocabulary = [&] {
    const auto outcome = worker_.Analyze(request);
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.error_message();
    for (const auto& event : outcome.events) {
      if (event.event().has_model()) return event.event().model().vocab_size();
    }
    return int64_t{0};
  };
  EXPECT_EQ(vocabulary(), 8192) << "MQAR's own default";
  request.mutable_checkpoint()->mutable_ref()->set_settings_json(R"({"d_model": 32})");
  request.mutable_spec()->mutable_task()->set_parameters_json(SmallMqar());
  EXPECT_EQ(vocabulary(), 64);
  request.mutable_checkpoint()->mutable_ref()->set_settings_json(R"({"d_model": 32, "vocab_size": 80})");
  EXPECT_EQ(vocabulary(), 80) << "a stated one counts";

  worker::v1::RunTrainingRequest training;
  *training.mutable_start() = request.checkpoint();
  training.mutable_start()->mutable_ref()->clear_settings_json();
  *training.mutable_spec()->mutable_task() = request.spec().task();
  training.mutable_spec()->set_steps(1);
  training.mutable_spec()->set_batch_size(2);
  training.mutable_spec()->set_eval_examples(2);
  grpc::ClientContext context;
  const auto reader = worker_.stub().RunTraining(&context, training);
  int64_t trained = 0;
  for (worker::v1::RunTrainingResponse event; reader->Read(&event);) {
    if (event.event().has_model()) trained = event.event().model().vocab_size();
  }
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(trained, 64);
}

TEST_F(WorkerServiceTest, AWrongParameterIsBlamedOnTheParameters) {
  const std::string path = dir_.Path("recorded.safetensors");
  SaveMamba2(path, 1, "{}",
             R"({"task":{"name":"mqar","parameters":)" + SmallMqar(R"(,"test_examples":40)") + "}}");
  worker::v1::RunAnalysisRequest request = AnalysisRequest(path, 8);
  request.mutable_spec()->mutable_task()->set_parameters_json(R"({"num_kv_pairs":"abc"})");
  const auto outcome = worker_.Analyze(request);
  EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(outcome.status.error_message(),
              AllOf(HasSubstr("num_kv_pairs"), HasSubstr("--param"), ::testing::Not(HasSubstr("recorded"))));
}

TEST_F(WorkerServiceTest, CancellingATrainingIdlesTheDeviceWithinAQuarterSecond) {
  worker::v1::RunTrainingRequest request;
  *request.mutable_start() = CheckpointAt(model_);
  request.mutable_spec()->mutable_task()->set_name("mqar");
  request.mutable_spec()->mutable_task()->set_parameters_json(SmallMqar());
  request.mutable_spec()->set_steps(1'000'000);
  request.set_output_path(dir_.Path("trained.safetensors"));
  request.set_last_path(dir_.Path("trained.last.safetensors"));
  grpc::ClientContext context;
  const auto reader = worker_.stub().RunTraining(&context, request);
  worker::v1::RunTrainingResponse event;
  while (reader->Read(&event) && event.event().progress().step() == 0) {
  }
  const absl::Time cancelled = absl::Now();
  context.TryCancel();
  worker_.WaitUntilIdle();
  EXPECT_LT(absl::Now() - cancelled, testing::kStopLimit);
}

TEST_F(WorkerServiceTest, CancellingAJobWhileItLoadsIdlesTheDeviceWithinAQuarterSecond) {
  const std::string path = dir_.Path("sparse.safetensors");
  SaveSparse(path);
  worker::v1::RunAnalysisRequest hashing = AnalysisRequest(path, 8), drawing = AnalysisRequest("", 8);
  hashing.mutable_checkpoint()->set_immutable(true);
  drawing.mutable_checkpoint()->mutable_ref()->mutable_initializer()->set_family("mamba2");
  drawing.mutable_checkpoint()->mutable_ref()->set_settings_json(R"({"vocab_size": 8000000})");
  for (const worker::v1::RunAnalysisRequest& request : {hashing, drawing}) {
    grpc::ClientContext context;
    const auto reader = worker_.stub().RunAnalysis(&context, request);
    worker::v1::RunAnalysisResponse event;
    ASSERT_TRUE(reader->Read(&event));
    EXPECT_EQ(event.event().progress().phase(), "load");
    absl::SleepFor(absl::Milliseconds(50));
    ASSERT_TRUE(worker_.Busy());
    const absl::Time cancelled = absl::Now();
    context.TryCancel();
    worker_.WaitUntilIdle();
    EXPECT_LT(absl::Now() - cancelled, testing::kStopLimit);
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
}

// The daemon sees by it whether a cancelled inspection or load has stopped: as its fakes have it.
TEST_F(WorkerServiceTest, TheStatusTellsTheInspectionOrLoadThatRuns) {
  const std::string path = dir_.Path("sparse.safetensors");
  SaveSparse(path);
  EXPECT_EQ(worker_.SideCallId(), 0);
  const auto await = [&](int64_t id) {
    const absl::Time start = absl::Now();
    while (worker_.SideCallId() != id && absl::Now() < start + absl::Seconds(30)) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    return absl::Now() - start;
  };
  const auto run = [&](int64_t id, bool load, grpc::ClientContext* context, grpc::Status* status) {
    return std::thread([=, this] {
      worker::v1::ResolvedCheckpoint checkpoint = CheckpointAt(path);
      checkpoint.set_immutable(true);
      worker::v1::LoadRequest load_request;
      *load_request.mutable_checkpoint() = checkpoint;
      load_request.set_call_id(id);
      worker::v1::LoadResponse loaded;
      worker::v1::InspectRequest inspect_request;
      *inspect_request.mutable_checkpoint() = checkpoint;
      inspect_request.set_call_id(id);
      worker::v1::InspectResponse inspected;
      *status = load ? worker_.stub().Load(context, load_request, &loaded)
                     : worker_.stub().Inspect(context, inspect_request, &inspected);
    });
  };
  int64_t id = 7;
  for (const bool load : {false, true}) {
    grpc::ClientContext first_context, second_context, third_context;
    grpc::Status first_status, second_status, third_status;
    std::thread first = run(id, load, &first_context, &first_status);
    await(id);
    EXPECT_EQ(worker_.SideCallId(), id);
    EXPECT_FALSE(worker_.Busy()) << "that is for jobs";
    std::thread second = run(id + 1, !load, &second_context, &second_status);
    std::thread third = run(id + 2, load, &third_context, &third_status);
    absl::SleepFor(absl::Milliseconds(50));
    EXPECT_EQ(worker_.SideCallId(), id) << "the others wait for their turn";
    second_context.TryCancel();
    third_context.TryCancel();
    second.join();
    third.join();
    EXPECT_EQ(worker_.SideCallId(), id) << "and leave the running one alone";
    first_context.TryCancel();
    EXPECT_LT(await(0), testing::kStopLimit);
    first.join();
    for (const grpc::Status& status : {first_status, second_status, third_status}) {
      EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
    }
    id += 10;
  }
}

}  // namespace
}  // namespace eigsvc
