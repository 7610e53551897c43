// Commands against a fake server in this process: what is asked, what is shown, how it ends.
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "client/cli/analysis_json.h"
#include "client/cli/call.h"
#include "client/cli/connection.h"
#include "client/cli/exit_code.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/base/sha256.h"
#include "tests/client/cli_harness.h"
#include "tests/client/fake_server.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::cli {
namespace {

namespace fs = std::filesystem;
using ::eigsvc::cli::testing::CliResult;
using ::eigsvc::cli::testing::CliSetup;
using ::eigsvc::cli::testing::FakeServer;
using ::eigsvc::cli::testing::FakeUpload;
using ::eigsvc::cli::testing::ReadFile;
using ::eigsvc::cli::testing::RunCli;
using ::eigsvc::cli::testing::TemporaryDirectory;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

std::string Digest(const std::string& bytes) {
  return Sha256::Of(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
}

const std::vector<std::string> kShowProgress = {"--progress", "json"};

// A user who reads stderr and sends a signal once the job is accepted (as --progress json shows): before, the
// client does not know its name. `when`: set then.
CliSetup SignalOnceAccepted(int signal, absl::Time* when = nullptr) {
  CliSetup setup;
  setup.on_err = [signal, when, sent = false](absl::string_view text) mutable {
    if (sent || !absl::StrContains(text, "\"phase\":\"queue\"")) return;
    sent = true;
    if (when) *when = absl::Now();
    std::raise(signal);
  };
  return setup;
}

class CommandTest : public ::testing::Test {
 protected:
  // With --server.
  CliResult Run(std::vector<std::string> arguments, const CliSetup& setup = {}) {
    arguments.insert(arguments.begin(), {"--server", server_.address()});
    return RunCli(arguments, setup);
  }
  CliResult Analyze(const std::vector<std::string>& more, const CliSetup& setup = {}) {
    std::vector<std::string> arguments = {"analyze", "--checkpoint", "demo/mamba2.safetensors", "--task",
                                          "mqar"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Run(arguments, setup);
  }
  FakeServer server_;
  TemporaryDirectory directory_;
};

TEST_F(CommandTest, AnalyzePutsTheResultOnStdoutAndNothingElse) {
  const CliResult result = Analyze({});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, StartsWith("mamba2 on mqar\n"));
  EXPECT_THAT(result.out, HasSubstr("accuracy 0.9981"));
  EXPECT_THAT(result.err, IsEmpty());
}

TEST_F(CommandTest, AnalyzeAsksForWhatTheFlagsSay) {
  const CliResult result = Analyze({"--twin",
                                    "5",
                                    "--param",
                                    "pairs=4",
                                    "--param",
                                    "fill=0.5",
                                    "--param",
                                    "label=a b",
                                    "--param",
                                    "shuffle=true",
                                    "--seed",
                                    "18446744073709551615",
                                    "--split",
                                    "train",
                                    "--examples",
                                    "100",
                                    "--batch-size",
                                    "10",
                                    "--max-steps",
                                    "32",
                                    "--dtype",
                                    "float64",
                                    "--device",
                                    "cpu",
                                    "--weight",
                                    "multiplicity",
                                    "--include-first-step",
                                    "--definition",
                                    "paper-compat",
                                    "--compat",
                                    "E1,E10",
                                    "--gauge",
                                    "raw",
                                    "--rotation",
                                    "state",
                                    "--precision",
                                    "multi",
                                    "--window",
                                    "16",
                                    "--stride",
                                    "4",
                                    "--config",
                                    R"({"b":1,"a":[2]})",
                                    "-o",
                                    "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  ASSERT_THAT(server_.analyze_requests(), SizeIs(1));
  const v1::AnalysisSpec spec = server_.analyze_requests()[0].spec();
  EXPECT_EQ(spec.checkpoint().name(), "demo/mamba2.safetensors");
  EXPECT_EQ(spec.checkpoint().twin_seed(), 5u);
  EXPECT_EQ(spec.checkpoint().settings_json(), R"({"a":[2],"b":1})");
  EXPECT_EQ(spec.task().name(), "mqar");
  EXPECT_EQ(spec.task().parameters_json(), R"({"pairs":4,"fill":0.5,"label":"a b","shuffle":true})");
  EXPECT_EQ(spec.task().seed(), 18446744073709551615u);
  EXPECT_EQ(spec.task().split(), "train");
  EXPECT_EQ(spec.examples(), 100);
  EXPECT_EQ(spec.batch_size(), 10);
  EXPECT_EQ(spec.max_steps(), 32);
  EXPECT_EQ(spec.dtype(), "float64");
  EXPECT_EQ(spec.device(), "cpu");
  EXPECT_TRUE(spec.weight_by_multiplicity());
  EXPECT_TRUE(spec.include_first_step());
  EXPECT_EQ(spec.definition(), "PAPER_COMPAT");
  EXPECT_THAT(spec.departures(), ::testing::ElementsAre("E1", "E10"));
  EXPECT_EQ(spec.gauge(), "raw");
  EXPECT_EQ(spec.rotation(), "state");
  EXPECT_EQ(spec.precision(), "multi");
  EXPECT_EQ(spec.window().length(), 16);
  EXPECT_EQ(spec.window().stride(), 4);
  EXPECT_FALSE(spec.keep_eigenvalues());
  EXPECT_FALSE(server_.analyze_requests()[0].detach());
}

TEST_F(CommandTest, WindowsBeginAWindowApart) {
  EXPECT_EQ(Analyze({"--window", "8"}).exit_code, 0);
  ASSERT_THAT(server_.analyze_requests(), SizeIs(1));
  EXPECT_EQ(server_.analyze_requests()[0].spec().window().stride(), 8);
  const CliResult alone = Analyze({"--stride", "8"});
  EXPECT_EQ(alone.exit_code, 2);
  EXPECT_THAT(alone.err, HasSubstr("give --window, too"));
  EXPECT_EQ(Analyze({"--window", "0"}).exit_code, 2);
}

TEST_F(CommandTest, AnalyzeStartsAFreshModelWithoutACheckpoint) {
  EXPECT_EQ(Run({"analyze", "--model", "mamba2", "--init-seed", "3", "--task", "mqar"}).exit_code, 0);
  ASSERT_THAT(server_.analyze_requests(), SizeIs(1));
  EXPECT_EQ(server_.analyze_requests()[0].spec().checkpoint().initializer().family(), "mamba2");
  EXPECT_EQ(server_.analyze_requests()[0].spec().checkpoint().initializer().seed(), 3u);
}

TEST_F(CommandTest, CompareTwinRunsBothOnTheSameExamples) {
  const CliResult result = Analyze({"--compare-twin", "9", "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  ASSERT_THAT(server_.analyze_requests(), SizeIs(2));
  EXPECT_FALSE(server_.analyze_requests()[0].spec().checkpoint().has_twin_seed());
  EXPECT_EQ(server_.analyze_requests()[1].spec().checkpoint().twin_seed(), 9u);
  EXPECT_EQ(server_.analyze_requests()[1].spec().task().parameters_json(), R"({"length":64,"pairs":4})");
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["score"]["value"], 0.998125);
  EXPECT_EQ(json["twin"]["score"]["value"], 0.015625);
  EXPECT_EQ(json["twin"]["checkpoint"]["twin_seed"], 9);
  EXPECT_EQ(json["sites"].size(), 4u);
  EXPECT_THAT(Analyze({"--compare-twin", "9"}).out, HasSubstr("twin, seed 9"));
}

TEST_F(CommandTest, NdjsonHasALineAnEvent) {
  const CliResult result = Analyze({"-o", "ndjson"});
  ASSERT_EQ(result.exit_code, 0);
  std::vector<std::string> events;
  std::stringstream lines(result.out);
  for (std::string line; std::getline(lines, line);) events.push_back(Json::parse(line)["event"]);
  EXPECT_THAT(events, ElementsAre("accepted", "model", "progress", "result"));
}

TEST_F(CommandTest, CsvHasARowASite) {
  const CliResult result = Analyze({"-o", "csv"});
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 5);
}

TEST_F(CommandTest, DetachPrintsTheIdAndHowToWatch) {
  const CliResult result = Analyze({"--detach"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "analysis-1\n");
  EXPECT_THAT(result.err, HasSubstr("eigsvc jobs watch analysis-1 --server " + server_.address()));
  EXPECT_TRUE(server_.analyze_requests()[0].detach());
  EXPECT_THAT(server_.cancelled(), IsEmpty());
}

TEST_F(CommandTest, ExportFetchesEveryByteAlsoAfterABreak) {
  server_.download_break_after = 150'000;
  const std::string path = directory_.path() + "/e.safetensors";
  const CliResult result = Analyze({"--export", path});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(server_.analyze_requests()[0].spec().keep_eigenvalues());
  EXPECT_EQ(ReadFile(path), std::string(300'000, 'e'));
}

TEST_F(CommandTest, ExportOfATwinGoesBesideIt) {
  EXPECT_EQ(Analyze({"--export", directory_.path() + "/e.safetensors", "--compare-twin", "1"}).exit_code, 0);
  EXPECT_TRUE(fs::exists(directory_.path() + "/e.twin.safetensors"));
}

TEST_F(CommandTest, ALocalFileIsUploadedInChunks) {
  const std::string bytes(3'000'000, 'w');
  const std::string path = directory_.Write("mamba2.safetensors", bytes);
  ASSERT_EQ(Run({"analyze", "--checkpoint", path, "--task", "mqar"}).exit_code, 0);
  ASSERT_THAT(server_.checkpoint_uploads(), SizeIs(1));
  const FakeUpload upload = server_.checkpoint_uploads()[0];
  EXPECT_EQ(upload.bytes, bytes);
  EXPECT_FALSE(upload.manifest.directory());
  ASSERT_EQ(upload.manifest.files_size(), 1);
  EXPECT_EQ(upload.manifest.files(0).name(), "mamba2.safetensors");
  EXPECT_EQ(upload.manifest.files(0).size_bytes(), 3'000'000);
  EXPECT_EQ(upload.manifest.files(0).sha256(), Digest(bytes));
  EXPECT_EQ(server_.analyze_requests()[0].spec().checkpoint().sha256(), Digest(bytes));
}

TEST_F(CommandTest, WhatTheServerKnowsIsNotSentAgain) {
  const std::string bytes(8'000'000, 'k');
  const std::string path = directory_.Write("known.pt", bytes);
  server_.known_digests = {Digest(bytes)};
  ASSERT_EQ(Run({"analyze", "--checkpoint", path, "--task", "mqar"}).exit_code, 0);
  ASSERT_THAT(server_.checkpoint_uploads(), SizeIs(1));
  EXPECT_THAT(server_.checkpoint_uploads()[0].bytes, IsEmpty());
  EXPECT_EQ(server_.analyze_requests()[0].spec().checkpoint().sha256(), Digest(bytes));
}

TEST_F(CommandTest, TheConfigBesideAFileGoesWithIt) {
  const std::string path = directory_.Write("w.bin", "weights");
  directory_.Write("config.json", "{}");
  directory_.Write("other.bin", "not this one");
  ASSERT_EQ(Run({"checkpoints", "upload", path}).exit_code, 0);
  const FakeUpload upload = server_.checkpoint_uploads()[0];
  EXPECT_TRUE(upload.manifest.directory());
  EXPECT_EQ(upload.bytes, "weights{}");
}

TEST_F(CommandTest, OfADirectoryWeightsAndConfigAreUploaded) {
  directory_.Write("model-00001-of-00002.safetensors", "one");
  directory_.Write("model-00002-of-00002.safetensors", "two");
  directory_.Write("model.safetensors.index.json", "{}");
  directory_.Write("config.json", "[]");
  directory_.Write("README.md", "text");
  ASSERT_EQ(Run({"checkpoints", "upload", directory_.path()}).exit_code, 0);
  EXPECT_EQ(server_.checkpoint_uploads()[0].bytes, "[]onetwo{}");
}

TEST_F(CommandTest, AnEmptyFileUploads) {
  EXPECT_EQ(Run({"checkpoints", "upload", directory_.Write("empty.pt", "")}).exit_code, 0);
}

TEST_F(CommandTest, UploadRefusesWhatItCannotSend) {
  EXPECT_THAT(Run({"checkpoints", "upload", directory_.Write("a b.pt", "x")}).err, HasSubstr("rename it"));
  const CliResult missing = Run({"checkpoints", "upload", directory_.path() + "/none.pt"});
  EXPECT_EQ(missing.exit_code, 69);
  EXPECT_THAT(missing.err, HasSubstr("none.pt: No such file or directory"));
  const std::string fifo = directory_.path() + "/fifo.pt";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(Run({"checkpoints", "upload", fifo}).exit_code, 67);
  fs::create_directory(directory_.path() + "/empty");
  EXPECT_THAT(Run({"checkpoints", "upload", directory_.path() + "/empty"}).err,
              HasSubstr("holds no weight files"));
}

TEST_F(CommandTest, DataIsUploadedOrNamed) {
  ASSERT_EQ(Analyze({"--data", directory_.Write("tokens.json", "[1,2,3]")}).exit_code, 0);
  EXPECT_EQ(server_.data_uploads()[0].bytes, "[1,2,3]");
  // Folders are not uploaded, and not left out without a word.
  fs::create_directories(directory_.path() + "/reviews/train");
  const CliResult folders = Analyze({"--data", directory_.path() + "/reviews"});
  EXPECT_EQ(folders.exit_code, 67);
  EXPECT_THAT(folders.err, AllOf(HasSubstr("holds the folder train"), HasSubstr("tar -czf")));
  EXPECT_EQ(server_.analyze_requests()[0].spec().task().data().sha256(), Digest("[1,2,3]"));
  ASSERT_EQ(Analyze({"--data", "wikitext/test.npy"}).exit_code, 0);
  EXPECT_EQ(server_.analyze_requests()[1].spec().task().data().name(), "wikitext/test.npy");
}

TEST_F(CommandTest, TrainSetsEveryFieldAndFetchesBothCheckpoints) {
  server_.checkpoints = {{Digest("best"), "best"}, {Digest("last"), "last"}};
  const std::string out = directory_.path() + "/m.safetensors";
  const CliResult result = Run({"train",
                                "--model",
                                "mamba2",
                                "--init-seed",
                                "2",
                                "--config",
                                R"({"d_model":64})",
                                "--task",
                                "mqar",
                                "--param",
                                "pairs=4",
                                "--seed",
                                "1",
                                "--out",
                                out,
                                "--steps",
                                "1500",
                                "--batch-size",
                                "32",
                                "--learning-rate",
                                "0.002",
                                "--final-learning-rate",
                                "1e-5",
                                "--warmup-steps",
                                "50",
                                "--weight-decay",
                                "0.2",
                                "--gradient-clip",
                                "0.5",
                                "--eval-every",
                                "100",
                                "--eval-examples",
                                "256",
                                "--stop-at-score",
                                "0.99",
                                "--device",
                                "cpu"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(ReadFile(out), "best");
  EXPECT_EQ(ReadFile(directory_.path() + "/m.last.safetensors"), "last");
  EXPECT_THAT(result.out, HasSubstr("1,500 in 90 s"));
  const v1::TrainingSpec spec = server_.train_requests()[0].spec();
  EXPECT_EQ(spec.start().initializer().family(), "mamba2");
  EXPECT_EQ(spec.start().initializer().seed(), 2u);
  EXPECT_EQ(spec.start().settings_json(), R"({"d_model":64})");
  EXPECT_EQ(spec.task().parameters_json(), R"({"pairs":4})");
  EXPECT_EQ(spec.task().seed(), 1u);
  EXPECT_EQ(spec.steps(), 1500);
  EXPECT_EQ(spec.batch_size(), 32);
  EXPECT_EQ(spec.learning_rate(), 0.002);
  EXPECT_EQ(spec.final_learning_rate(), 1e-5);
  EXPECT_EQ(spec.warmup_steps(), 50);
  EXPECT_EQ(spec.weight_decay(), 0.2);
  EXPECT_EQ(spec.gradient_clip(), 0.5);
  EXPECT_EQ(spec.eval_every(), 100);
  EXPECT_EQ(spec.eval_examples(), 256);
  EXPECT_EQ(spec.stop_at_score(), 0.99);
  EXPECT_EQ(spec.device(), "cpu");
  EXPECT_FALSE(spec.resume());
}

TEST_F(CommandTest, TrainLeavesUnsaidFieldsToTheServer) {
  server_.checkpoints = {{Digest("best"), "best"}};
  ASSERT_EQ(
      Run({"train", "--model", "mamba2", "--task", "mqar", "--out", directory_.path() + "/m.safetensors"})
          .exit_code,
      0);
  const v1::TrainingSpec spec = server_.train_requests()[0].spec();
  EXPECT_FALSE(spec.has_steps() || spec.has_batch_size() || spec.has_learning_rate() ||
               spec.has_weight_decay() || spec.has_gradient_clip() || spec.has_stop_at_score());
}

TEST_F(CommandTest, ARecipeGivesFlagsThatTheCommandLineOverrides) {
  server_.checkpoints = {{Digest("best"), "best"}};
  const std::string recipe = directory_.Write(
      "recipe.json",
      R"({"model":"mamba2","task":"mqar","config":{"d_model":64},"param":{"pairs":4,"kind":"x"},"steps":700,"learning_rate":0.01,"seed":4})");
  const std::string out = directory_.path() + "/m.safetensors";
  const CliResult result = Run({"train", "--recipe", recipe, "--steps", "800", "--out", out, "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const v1::TrainingSpec spec = server_.train_requests()[0].spec();
  EXPECT_EQ(spec.start().initializer().family(), "mamba2");
  EXPECT_EQ(spec.start().settings_json(), R"({"d_model":64})");
  EXPECT_EQ(spec.task().parameters_json(), R"({"pairs":4,"kind":"x"})");
  EXPECT_EQ(spec.task().seed(), 4u);
  EXPECT_EQ(spec.steps(), 800);
  EXPECT_EQ(spec.learning_rate(), 0.01);
  EXPECT_EQ(Json::parse(result.out)["checkpoints"]["best"]["path"], out);

  const std::string unknown = directory_.Write("bad.json", R"({"model":"mamba2","stepz":1})");
  const CliResult bad = Run({"train", "--recipe", unknown, "--out", out});
  EXPECT_EQ(bad.exit_code, kExitUsage);
  EXPECT_THAT(bad.err, HasSubstr("did you mean \"steps\"?"));
  const CliResult absurd =
      Run({"train", "--recipe", directory_.Write("neg.json", R"({"steps":-5})"), "--out", out});
  EXPECT_EQ(absurd.exit_code, kExitUsage);
}

TEST_F(CommandTest, TheRecipeInTheRepositoryIsUnderstood) {
  server_.checkpoints = {{Digest("best"), "best"}};
  const CliResult result =
      Run({"train", "--recipe", eigsvc::testing::SourcePath("models/recipes/mqar-mamba2-demo.json"), "--out",
           directory_.path() + "/m.safetensors"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const v1::TrainingSpec spec = server_.train_requests()[0].spec();
  EXPECT_EQ(spec.start().initializer().family(), "mamba2");
  EXPECT_EQ(Json::parse(spec.start().settings_json())["n_layer"], 2);
  EXPECT_EQ(Json::parse(spec.task().parameters_json())["num_kv_pairs"], 4);
  EXPECT_TRUE(spec.has_steps() && spec.has_learning_rate() && spec.has_stop_at_score());
}

TEST_F(CommandTest, ARecipeByNameIsUnderstoodAtEveryScale) {
  server_.checkpoints = {{Digest("best"), "best"}};
  const std::string out = directory_.path() + "/m.safetensors";
  for (const char* scale : {"paper", "gpu", "small"}) {
    for (const char* name :
         {"mqar/mamba2", "cifar-10/norm-attention-gating", "imdb/s4", "wikitext-103/lru"}) {
      const CliResult result =
          Run({"train", "--recipe", name, "--scale", scale, "--batch-size", "3", "--out", out});
      ASSERT_EQ(result.exit_code, 0) << name << " " << scale << ": " << result.err;
    }
  }
  const v1::TrainingSpec lru = server_.train_requests().back().spec();
  EXPECT_EQ(lru.start().initializer().family(), "lru");
  EXPECT_EQ(lru.start().initializer().seed(), 1919u);
  EXPECT_EQ(Json::parse(lru.start().settings_json())["hidden_dim"], 64);
  EXPECT_EQ(lru.task().name(), "wikitext-103");
  EXPECT_EQ(Json::parse(lru.task().parameters_json())["block_length"], 256);
  EXPECT_EQ(lru.recurrence_learning_rate(), 1e-3);
  EXPECT_EQ(lru.beta2(), 0.95);
  EXPECT_FALSE(lru.decay_recurrence());
  EXPECT_EQ(lru.batch_size(), 3);

  ASSERT_EQ(Run({"train", "--recipe", "imdb/lru", "--as-published", "--out", out}).exit_code, 0);
  const v1::TrainingSpec published = server_.train_requests().back().spec();
  EXPECT_TRUE(published.decay_recurrence());
  EXPECT_FALSE(published.has_recurrence_learning_rate());
  EXPECT_EQ(published.steps(), 125010);
}

TEST_F(CommandTest, RecipesAreListedAndDescribed) {
  const CliResult listed = Run({"recipes", "-o", "json"});
  ASSERT_EQ(listed.exit_code, 0) << listed.err;
  EXPECT_EQ(Json::parse(listed.out)["recipes"].size(), 39u);
  EXPECT_THAT(Run({"recipes"}).out, HasSubstr("wikitext-103/s4"));
  const CliResult described = Run({"recipes", "describe", "mqar/mamba2", "--scale", "small"});
  ASSERT_EQ(described.exit_code, 0) << described.err;
  EXPECT_EQ(Json::parse(described.out)["config"]["hidden_dim"], 64);
  // What is printed is what --recipe takes.
  server_.checkpoints = {{Digest("best"), "best"}};
  const std::string file = directory_.Write("mine.json", described.out),
                    out = directory_.path() + "/m.safetensors";
  ASSERT_EQ(Run({"train", "--recipe", file, "--out", out}).exit_code, 0);
  ASSERT_EQ(Run({"train", "--recipe", "mqar/mamba2", "--scale", "small", "--out", out}).exit_code, 0);
  const auto requests = server_.train_requests();
  EXPECT_EQ(requests[0].spec().SerializeAsString(), requests[1].spec().SerializeAsString());
}

TEST_F(CommandTest, AStartOnTheCommandLineReplacesTheRecipes) {
  server_.checkpoints = {{Digest("best"), "best"}};
  const CliResult result = Run(
      {"train", "--recipe", eigsvc::testing::SourcePath("models/recipes/mqar-mamba2-demo.json"),
       "--checkpoint", "demo/m.last.safetensors", "--resume", "--out", directory_.path() + "/m.safetensors"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const v1::TrainingSpec spec = server_.train_requests()[0].spec();
  EXPECT_EQ(spec.start().name(), "demo/m.last.safetensors");
  EXPECT_THAT(spec.start().settings_json(), IsEmpty());
  EXPECT_TRUE(spec.resume());
  EXPECT_TRUE(spec.has_steps());
}

TEST_F(CommandTest, ACheckpointThatArrivesAlteredIsRefused) {
  server_.checkpoints = {{Digest("what was trained"), "what arrived"}};
  const std::string out = directory_.path() + "/m.safetensors";
  const CliResult result = Run({"train", "--model", "mamba2", "--task", "mqar", "--out", out});
  EXPECT_EQ(result.exit_code, 79);
  EXPECT_FALSE(fs::exists(out));
  EXPECT_TRUE(fs::is_empty(directory_.path())) << "a temporary file was left behind";
}

TEST_F(CommandTest, JobsOfBothKindsAreListedNewestFirst) {
  const CliResult result = Run({"jobs", "list", "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json jobs = Json::parse(result.out)["jobs"];
  ASSERT_EQ(jobs.size(), 3u);
  EXPECT_EQ(jobs[0]["id"], "analysis-1");
  EXPECT_EQ(jobs[1]["id"], "training-1");
  EXPECT_EQ(jobs[1]["done"], 400);
  EXPECT_EQ(jobs[2]["id"], "analysis-0");
  EXPECT_EQ(jobs[2]["error"], "the worker died");
}

TEST_F(CommandTest, JobsAreWatchedGotAndCancelledByIdAlone) {
  EXPECT_THAT(Run({"jobs", "watch", "analysis-1"}).out, HasSubstr("Distribution of |λ|"));
  server_.checkpoints = {{Digest("best"), "best"}};
  EXPECT_THAT(Run({"jobs", "watch", "training-1"}).out, HasSubstr("mamba2 trained on mqar"));
  EXPECT_EQ(Json::parse(Run({"jobs", "get", "analysis-1", "-o", "json"}).out)["analysis_id"], "analysis-1");
  EXPECT_THAT(Run({"jobs", "get", "training-1"}).out, HasSubstr("running"));
  EXPECT_EQ(Run({"jobs", "cancel", "training-1"}).err, "eigsvc: cancelled training-1\n");
  EXPECT_THAT(server_.cancelled(), ElementsAre("training-1"));
  const CliResult unknown = Run({"jobs", "get", "nothing"});
  EXPECT_EQ(unknown.exit_code, 69);
  EXPECT_THAT(unknown.err, HasSubstr("eigsvc jobs list"));
}

TEST_F(CommandTest, CatalogueCommandsShowWhatTheServerSays) {
  EXPECT_THAT(Run({"models"}).out, HasSubstr("state-spaces, paper"));
  EXPECT_THAT(Run({"models"}).out, AllOf(HasSubstr("λ = exp(Δ·A) per head and step  arXiv 2405.21060"),
                                         HasSubstr("13 cases pass; none of paper")));
  const Json model = Json::parse(Run({"models", "list", "-o", "json"}).out)["models"][0];
  EXPECT_EQ(model["trainable"], true);
  EXPECT_EQ(model["conformance"][0]["references"], "transformers 5.23.0");
  EXPECT_EQ(model["conformance"][0]["logits_float32"], 2e-6);
  // What was not run is no error of 0.
  EXPECT_TRUE(model["conformance"][0]["logits_float64"].is_null());
  EXPECT_TRUE(model["conformance"][1]["logits_float32"].is_null());
  EXPECT_THAT(Run({"models", "loaded"}).out, HasSubstr("70,144"));
  EXPECT_THAT(Run({"models", "load", "demo/mamba2.safetensors"}).out, HasSubstr("model-1"));
  EXPECT_EQ(Run({"models", "unload", "model-1"}).exit_code, 0);
  EXPECT_EQ(Run({"models", "unload", "model-2"}).exit_code, 69);
  EXPECT_THAT(Run({"tasks"}).out, HasSubstr("Multi-query"));
  EXPECT_THAT(Run({"tasks", "describe", "mqar"}).out, HasSubstr("Key-value pairs"));
  EXPECT_EQ(Json::parse(Run({"tasks", "describe", "mqar", "-o", "json"}).out)["parameters"][0]["default"], 4);
  EXPECT_THAT(Run({"tasks", "describe", "mqar"}).out, AllOf(HasSubstr("small"), HasSubstr("For two cores")));
  // The state of the data, and what it takes to have it.
  const std::string tasks = Run({"tasks"}).out;
  EXPECT_THAT(tasks, AllOf(HasSubstr("missing: --data"), HasSubstr("there, not read: aclImdb_v1.tar.gz")));
  EXPECT_THAT(Run({"tasks", "describe", "imdb"}).out,
              AllOf(HasSubstr("the .tar.gz as it is"), HasSubstr("md5 7c2a"),
                    HasSubstr("imdb, aclImdb_v1.tar.gz"), HasSubstr("must match its checksum")));
  EXPECT_THAT(Run({"tasks", "describe", "found"}).out, HasSubstr("data root holds aclImdb_v1.tar.gz"));
  const Json imdb = Json::parse(Run({"tasks", "describe", "imdb", "-o", "json"}).out);
  EXPECT_EQ(imdb["data"]["needed"], true);
  EXPECT_TRUE(imdb["data"]["found"].is_null());
  EXPECT_EQ(imdb["data"]["files"][0]["checksum"], "md5 7c2a");
  EXPECT_EQ(Json::parse(Run({"tasks", "-o", "json"}).out)["tasks"][0]["presets"][0]["parameters"]["pairs"],
            2);
  const CliResult unknown = Run({"tasks", "describe", "mqra"});
  EXPECT_EQ(unknown.exit_code, 69);
  EXPECT_THAT(unknown.err, HasSubstr("did you mean \"mqar\"?"));
  EXPECT_THAT(Run({"checkpoints", "list", "-o", "csv"}).out,
              HasSubstr("demo/mamba2.safetensors,,300000,false"));
  EXPECT_THAT(Run({"server", "info"}).out, HasSubstr("4242"));
  EXPECT_EQ(Json::parse(Run({"server", "info", "-o", "json"}).out)["limits"]["model_memory_bytes"], 1 << 30);
  EXPECT_EQ(Json::parse(Run({"inspect", "demo/mamba2.safetensors", "-o", "json"}).out)["family"], "mamba2");
}

TEST_F(CommandTest, DownloadChecksTheDigest) {
  server_.checkpoints = {{Digest("best"), "best"}};
  const std::string out = directory_.path() + "/b.safetensors";
  EXPECT_EQ(Run({"checkpoints", "download", Digest("best"), "--out", out}).exit_code, 0);
  EXPECT_EQ(ReadFile(out), "best");
  EXPECT_EQ(Run({"checkpoints", "download", Digest("none"), "--out", out}).exit_code, 69);
}

TEST_F(CommandTest, UnaryCallsOutliveARestart) {
  server_.unary_failures = 2;
  EXPECT_EQ(Run({"models"}).exit_code, 0);
  EXPECT_EQ(server_.unary_calls(), 3);
}

TEST_F(CommandTest, RetriesEnd) {
  server_.unary_failures = 100;
  const CliResult result = Run({"models"});
  EXPECT_EQ(result.exit_code, 78);
  EXPECT_THAT(result.err, HasSubstr("UNAVAILABLE: restarting"));
  EXPECT_EQ(server_.unary_calls(), 4);
}

TEST_F(CommandTest, ProgressGoesToStderrInTheFormAskedFor) {
  const CliResult json = Analyze({"--progress", "json", "-o", "json"});
  const Json line = Json::parse(
      json.err.substr(json.err.find("{\"event\":\"progress\",\"phase\":\"run\""), json.err.rfind('\n')));
  EXPECT_EQ(line["done"], 1000);
  EXPECT_EQ(line["total"], 3000);
  EXPECT_FALSE(Json::parse(json.out).is_discarded());
  const CliResult bar = Analyze({}, {.err_is_terminal = true});
  EXPECT_THAT(bar.err, HasSubstr("1,000/3,000 examples"));
  EXPECT_THAT(bar.err, MatchesRegex("(.|\n|\r)*\r\x1b\\[K$")) << "the bar was left on the screen";
  EXPECT_THAT(Analyze({"--quiet"}, {.err_is_terminal = true}).err, IsEmpty());
  EXPECT_THAT(Analyze({"--progress", "none"}, {.err_is_terminal = true}).err, IsEmpty());
}

TEST_F(CommandTest, ColoursOnlyWhereTheyAreWelcome) {
  const CliSetup terminal = {.out_is_terminal = true};
  EXPECT_THAT(Analyze({}, terminal).out, HasSubstr("\x1b["));
  EXPECT_THAT(Analyze({}).out, Not(HasSubstr("\x1b[")));
  EXPECT_THAT(Analyze({"--color", "always"}).out, HasSubstr("\x1b["));
  EXPECT_THAT(Analyze({"--color", "never"}, terminal).out, Not(HasSubstr("\x1b[")));
  EXPECT_THAT(Analyze({}, {.env = {{"NO_COLOR", "1"}}, .out_is_terminal = true}).out,
              Not(HasSubstr("\x1b[")));
  EXPECT_THAT(Analyze({}, {.env = {{"TERM", "dumb"}}, .out_is_terminal = true}).out, Not(HasSubstr("\x1b[")));
  EXPECT_THAT(Analyze({"-o", "json"}, terminal).out, Not(HasSubstr("\x1b[")));
}

TEST_F(CommandTest, WithoutUtf8TheOutputIsAscii) {
  for (const char c : Analyze({"--compare-twin", "1"}, {.utf8 = false}).out)
    ASSERT_TRUE(c == '\n' || (c >= 0x20 && c < 0x7F));
}

TEST_F(CommandTest, AReaderThatLeavesEndsTheCallInSilence) {
  const CliResult result = Analyze({"-o", "ndjson"}, {.broken_after = 10});
  EXPECT_EQ(result.exit_code, 141);
  EXPECT_THAT(result.err, IsEmpty());
}

TEST_F(CommandTest, TheServerIsTakenFromTheEnvironment) {
  EXPECT_EQ(RunCli({"models"}, {.env = {{"EIGSVC_SERVER", server_.address()}}}).exit_code, 0);
}

TEST_F(CommandTest, AConfigThatIsNoFileIsNotLeftOutInSilence) {
  const std::string checkpoint = directory_.Write("m.safetensors", "weights");
  ASSERT_EQ(mkfifo((directory_.path() + "/config.json").c_str(), 0600), 0);
  for (const std::string& named : {checkpoint, directory_.path()}) {
    const CliResult result = Run({"analyze", "--checkpoint", named, "--task", "mqar"});
    EXPECT_EQ(result.exit_code, 67) << result.err;
    EXPECT_THAT(result.err, HasSubstr("config.json is no plain file"));
  }
  EXPECT_THAT(server_.checkpoint_uploads(), IsEmpty());
}

TEST_F(CommandTest, CtrlCCancelsTheJobAtTheServer) {
  server_.hang = true;
  const CliResult result = Analyze(kShowProgress, SignalOnceAccepted(SIGINT));
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_THAT(server_.cancelled(), ElementsAre("analysis-1"));
  EXPECT_THAT(result.err, HasSubstr("cancelling analysis-1"));
  EXPECT_THAT(result.out, IsEmpty());
}

// Between two calls nobody waits for anything: the next call sees it, and what is called because of it does
// not.
TEST_F(CommandTest, ASignalBetweenTwoCallsIsNotLost) {
  Interrupt::Install();
  Interrupt::Reset();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto connection, Connection::Open({.server = server_.address()}));
  const auto ask = [&] {
    return CallUnary<v1::GetServerInfoResponse>(connection->call_options(), [&](auto* context, auto* queue) {
      return connection->catalog().PrepareAsyncGetServerInfo(context, {}, queue);
    });
  };
  EIGSVC_EXPECT_OK(ask());
  std::raise(SIGINT);
  EXPECT_EQ(ask().status(), Interrupt::Check());
  EIGSVC_EXPECT_OK(ask());
  Interrupt::Reset();
}

TEST_F(CommandTest, CtrlCCancelsTraining) {
  server_.hang = true;
  const CliResult result = Run({"train", "--model", "mamba2", "--task", "mqar", "--out",
                                directory_.path() + "/m.safetensors", "--progress", "json"},
                               SignalOnceAccepted(SIGINT));
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_THAT(server_.cancelled(), ElementsAre("training-1"));
  EXPECT_THAT(result.err, Not(HasSubstr("kept"))) << "it left nothing";
}

TEST_F(CommandTest, ACancelledTrainingsCheckpointsAreFetched) {
  server_.checkpoints = {{Digest("best"), "best"}, {Digest("last"), "last"}};
  server_.hang = true;
  const std::string out = directory_.path() + "/m.safetensors";
  const CliResult result =
      Run({"train", "--model", "mamba2", "--task", "mqar", "--out", out, "--progress", "json"},
          SignalOnceAccepted(SIGINT));
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_EQ(ReadFile(directory_.path() + "/m.last.safetensors"), "last");
  EXPECT_EQ(ReadFile(out), "best");
  EXPECT_THAT(result.err, HasSubstr("--checkpoint " + directory_.path() + "/m.last.safetensors --resume"));
  EXPECT_THAT(result.out, IsEmpty());
  const CliResult get = Run({"jobs", "get", "training-1"});
  EXPECT_THAT(get.out, HasSubstr(Digest("last")));
}

TEST_F(CommandTest, TrainWritesSafetensorsAndNothingUnderAnotherName) {
  for (const char* flag : {"--out", "--out-last"}) {
    std::vector<std::string> arguments = {"train", "--model", "mamba2", "--task", "mqar"};
    if (flag != std::string("--out"))
      arguments.insert(arguments.end(), {"--out", directory_.path() + "/a.safetensors"});
    arguments.insert(arguments.end(), {flag, directory_.path() + "/m.pt"});
    const CliResult result = Run(arguments);
    EXPECT_EQ(result.exit_code, kExitUsage);
    EXPECT_THAT(result.err, HasSubstr(std::string(flag) + " writes safetensors"));
    EXPECT_THAT(result.err, HasSubstr("m.pt"));
  }
  EXPECT_THAT(server_.train_requests(), IsEmpty());
}

TEST_F(CommandTest, AServerThatDoesNotObeyIsLeftAfterThreeSeconds) {
  server_.hang = true;
  server_.obey_cancel = false;
  absl::Time interrupted;
  EXPECT_EQ(Analyze(kShowProgress, SignalOnceAccepted(SIGINT, &interrupted)).exit_code, 130);
  EXPECT_GE(absl::Now() - interrupted, absl::Milliseconds(2900));
  EXPECT_LE(absl::Now() - interrupted, absl::Seconds(8));
}

TEST_F(CommandTest, ASecondCtrlCLeavesAtOnce) {
  server_.hang = true;
  server_.obey_cancel = false;
  absl::Time second;
  std::thread user([&] {
    while (server_.cancelled().empty()) absl::SleepFor(absl::Milliseconds(5));
    absl::SleepFor(absl::Milliseconds(200));
    second = absl::Now();
    std::raise(SIGINT);
  });
  EXPECT_EQ(Analyze(kShowProgress, SignalOnceAccepted(SIGINT)).exit_code, 130);
  EXPECT_LE(absl::Now() - second, absl::Seconds(2));
  user.join();
}

TEST_F(CommandTest, CtrlCLeavesAWatchedJobAlone) {
  server_.hang = true;
  const CliResult result =
      Run({"jobs", "watch", "analysis-1", "--progress", "json"}, SignalOnceAccepted(SIGINT));
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_THAT(server_.cancelled(), IsEmpty());
  EXPECT_THAT(result.err, HasSubstr("goes on"));
}

TEST_F(CommandTest, SigtermEndsWith143) {
  server_.hang = true;
  EXPECT_EQ(Analyze(kShowProgress, SignalOnceAccepted(SIGTERM)).exit_code, 143);
}

TEST_F(CommandTest, ATimeoutEndsTheCall) {
  server_.hang = true;
  const CliResult result = Analyze({"--timeout", "300ms"});
  EXPECT_EQ(result.exit_code, 68);
  EXPECT_THAT(result.err, HasSubstr("DEADLINE_EXCEEDED"));
}

class ExitCodeTest : public CommandTest, public ::testing::WithParamInterface<int> {};

TEST_P(ExitCodeTest, Is64PlusTheServersCode) {
  const auto code = static_cast<grpc::StatusCode>(GetParam());
  server_.analyze_status = grpc::Status(code, "what happened and what to do");
  const CliResult result = Analyze({});
  EXPECT_EQ(result.exit_code, 64 + GetParam());
  const std::string name = absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
  EXPECT_EQ(result.err, "eigsvc: error: " + name + ": what happened and what to do\n");
  EXPECT_THAT(RunCli({"--help"}).out, HasSubstr(std::to_string(64 + GetParam()) + " " + name));
}
INSTANTIATE_TEST_SUITE_P(AllCodes, ExitCodeTest, ::testing::Range(1, 17));

struct UsageCase {
  std::vector<std::string> arguments;
  std::string says;
};
void PrintTo(const UsageCase& usage, std::ostream* out) { *out << ::testing::PrintToString(usage.arguments); }
class UsageTest : public ::testing::TestWithParam<UsageCase> {};

TEST_P(UsageTest, EndsWithTwoAndSaysWhatToDo) {
  const CliResult result = RunCli(GetParam().arguments);
  EXPECT_EQ(result.exit_code, kExitUsage);
  EXPECT_THAT(result.err, StartsWith("eigsvc: error: "));
  EXPECT_THAT(result.err, HasSubstr(GetParam().says));
  EXPECT_THAT(result.out, IsEmpty());
}
INSTANTIATE_TEST_SUITE_P(
    Cases, UsageTest,
    ::testing::Values(
        UsageCase{{"analyze", "--checkpoint", "x", "--task", "mqar", "--seed", "-1"}, "-1 is no seed"},
        UsageCase{{"analyze", "--checkpoint", "x", "--task", "mqar", "--seed", "99999999999999999999"},
                  "is no seed"},
        UsageCase{{"analyze", "--checkpoint", "/dev/null", "--task", "mqar", "--config", "/dev/zero"},
                  "give a regular file"},
        UsageCase{{"analyse"}, "did you mean \"analyze\"?"},
        UsageCase{{"jobs", "lst"}, "did you mean \"list\"?"},
        UsageCase{{"analyze", "--chekpoint", "x"}, "did you mean \"--checkpoint\"?"},
        UsageCase{{"analyze", "--sever=x"}, "did you mean \"--server\"?"},
        UsageCase{{"analyze", "--task", "mqar"}, "--checkpoint FILE"},
        UsageCase{{"analyze", "--checkpoint", "x"}, "--task mqar"},
        UsageCase{{"analyze", "--checkpoint", "x", "--model", "y", "--task", "mqar"}, "exclude each other"},
        UsageCase{{"analyze", "--twin", "1", "--compare-twin", "2"}, "give one"},
        UsageCase{{"analyze", "--examples", "-1"}, "--examples"},
        UsageCase{{"analyze", "--examples", "many"}, "many"},
        UsageCase{{"analyze", "--max-steps", "2147483648"}, "2147483648 not in range"},
        UsageCase{{"train", "--batch-size", "65537"}, "65537 not in range"},
        UsageCase{{"train", "--steps", "1000000001"}, "1000000001 not in range"},
        UsageCase{{"train", "--eval-examples", "10000001"}, "10000001 not in range"},
        UsageCase{{"train", "--learning-rate", "10.5"}, "10.5 not in range"},
        UsageCase{{"train", "--learning-rate", "0"}, "Value 0 not in range [1e-12 - 10]"},
        UsageCase{{"train", "--learning-rate", "nan"}, "nan not in range"},
        UsageCase{{"train", "--beta2", "1"}, "Value 1 not in range [0 - 0.999999999999]"},
        UsageCase{{"train", "--weight-decay", "-1"}, "-1 not in range"},
        UsageCase{{"analyze", "--seed", "1.5"}, "--seed"},
        UsageCase{{"analyze", "--task", "mqar", "--param", "pairs"}, "KEY=VALUE"},
        UsageCase{{"analyze", "--task", "mqar", "--param", "a=1", "--param", "a=2"}, "given twice"},
        UsageCase{{"analyze", "--model", "m", "--task", "mqar", "--config", "{\"a\""}, "--config"},
        UsageCase{{"analyze", "--model", "m", "--task", "mqar", "--config", "/nowhere.json"},
                  "cannot read /nowhere.json"},
        UsageCase{{"analyze", "--export", "/tmp/x.npz"}, ".safetensors"},
        UsageCase{{"analyze", "--detach"}, "--server"}, UsageCase{{"analyze", "--dtype", "int8"}, "float64"},
        UsageCase{{"-o", "xml", "models"}, "ndjson"}, UsageCase{{"--timeout", "soon", "models"}, "30s"},
        UsageCase{{"train", "--model", "m", "--task", "mqar"}, "--out"},
        UsageCase{{"train", "--resume", "--model", "m", "--task", "t", "--out", "x.safetensors"},
                  "--checkpoint"},
        UsageCase{{"train", "--recipe", "/nowhere.json"}, "cannot read /nowhere.json"},
        UsageCase{{"train", "--recipe", "mqar/mamba3"}, "did you mean \"mqar/mamba2\"?"},
        UsageCase{{"train", "--recipe", "mqar/mamba2", "--scale", "tiny"}, "known: paper, gpu, small"},
        UsageCase{{"train", "--recipe", "listops/lru", "--as-published"}, "KeyError"},
        UsageCase{{"train", "--recipe", "r.json", "--scale", "small"}, "go with a recipe's name"},
        UsageCase{{"train", "--task", "mqar", "--scale", "small"}, "--recipe NAME"},
        UsageCase{{"recipes", "describe", "mqar"}, "unknown recipe \"mqar\""},
        UsageCase{{"jobs", "list"}, "EIGSVC_SERVER"}, UsageCase{{"checkpoints", "list"}, "EIGSVC_SERVER"},
        UsageCase{{"models", "loaded"}, "EIGSVC_SERVER"}, UsageCase{{"inspect"}, "path"},
        UsageCase{{"inspect", "a", "b"}, "unexpected argument \"b\""}));

TEST(LocalFailureTest, NoServerSaysWhatToDo) {
  const TemporaryDirectory directory;
  const std::string address = "unix:" + directory.path() + "/socket";  // a port may be anyone's
  const CliResult result = RunCli({"--server", address, "models"});
  EXPECT_EQ(result.exit_code, 78);
  EXPECT_THAT(result.err, HasSubstr("no server answers at " + address));
  EXPECT_THAT(result.err, HasSubstr("eigsvcd --listen " + address));
}

TEST(LocalFailureTest, NoSuchFileIsNotFound) {
  const CliResult result = RunCli({"analyze", "--checkpoint", "/nowhere/m.pt", "--task", "mqar"});
  EXPECT_EQ(result.exit_code, 69);
  EXPECT_THAT(result.err, HasSubstr("/nowhere/m.pt"));
}

TEST(LocalFailureTest, AnUnwritableOutputIsFoundBeforeTheWork) {
  const CliResult result =
      RunCli({"train", "--model", "m", "--task", "mqar", "--out", "/nowhere/m.safetensors"});
  EXPECT_EQ(result.exit_code, kExitLocalFailure);
  EXPECT_THAT(result.err, HasSubstr("cannot write /nowhere/m.safetensors"));
}

TEST(InspectTest, NeedsNoServer) {
  EIGSVC_REQUIRE_SHARED();
  const std::string path =
      eigsvc::testing::SharedPath("data/checkpoints/stories260K/stories260K.safetensors");
  const CliResult result = RunCli({"inspect", path, "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["family"], "llama");
  EXPECT_EQ(json["layers"], 5);
  EXPECT_EQ(json["parameters"], 260032);
  EXPECT_EQ(json["sha256"], Digest(ReadFile(path)));
  // With EIGSVC_SERVER set but no --server, the file stays here.
  EXPECT_EQ(RunCli({"inspect", path}, {.env = {{"EIGSVC_SERVER", "unix:/nowhere/socket"}}}).exit_code, 0);
}

// A program in eigsvc-worker's place that prints `text` and ends with `code`.
std::string FakeWorker(const TemporaryDirectory& directory, const std::string& text, int code) {
  directory.Write("text", text);
  const std::string path = directory.Write(
      "worker", absl::StrCat("#!/bin/sh\nprintf '%s ' \"$@\" >'", directory.path(), "/arguments'\ncat '",
                             directory.path(), "/text'", code == 0 ? "" : " >&2", "\nexit ", code, "\n"));
  fs::permissions(path, fs::perms::owner_all);
  return path;
}

TEST(InspectTest, TheWorkerSaysWhatTheModelWouldBe) {
  const TemporaryDirectory directory;
  const std::string worker = FakeWorker(directory, R"({
    "family": "mixed", "layout": "x", "layers": 4, "sha256": "ab",
    "model": {"width": 64, "vocabSize": 512, "parameters": 12345, "gauges": ["dsf"],
              "departures": ["E1", "E9"], "dtype": "bfloat16",
              "eigenvaluesPerToken": 24, "constantEigenvalues": 32, "weightBytes": 2097152,
              "streamedWeightBytes": 1048576, "steps": 4096, "activationBytes": 3145728,
              "layers": [{"mixers": [{"mixer": "attention", "unitKind": "UNIT_KIND_HEAD", "units": 8,
                                      "eigenvaluesPerUnit": 1, "transition": "scalar"}]},
                         {}, {"mixers": [{"mixer": "s4d", "unitKind": "UNIT_KIND_CHANNEL", "units": 1,
                                          "eigenvaluesPerUnit": 32, "multiplicity": 1, "constant": true,
                                          "transition": "diagonal"}]}, {}]}})",
                                        0);
  const CliSetup setup = {.env = {{"EIGSVC_WORKER", worker}}};
  const CliResult table = RunCli({"inspect", "m.pt", "--steps", "4096", "--dtype", "bfloat16"}, setup);
  ASSERT_EQ(table.exit_code, 0) << table.err;
  EXPECT_EQ(ReadFile(directory.path() + "/arguments"), "inspect --dtype=bfloat16 --steps=4096 -- m.pt ");
  for (const char* line :
       {"mixed (x layout), 4 layers, width 64, vocabulary 512",
        "layer 0: attention: scalar, 8 heads, 1 eigenvalue each of infinite multiplicity",
        "layers 1, 3: nothing over time",
        "layer 2: s4d: diagonal, the same at every step, 1 channel, 32 eigenvalues each",
        "24 a token, 32 that no token changes (gauge dsf)", "definition  exact, or paper-compat (E1, E9)",
        "2.0 MiB of weights in bfloat16", "sequence of 4,096 steps"}) {
    EXPECT_THAT(table.out, HasSubstr(line));
  }
  const Json json = Json::parse(RunCli({"inspect", "m.pt", "-o", "json"}, setup).out);
  EXPECT_EQ(json["model"]["layers"][2]["mixers"][0]["transition"], "diagonal");
  EXPECT_TRUE(json["model"]["layers"][0]["mixers"][0]["multiplicity"].is_null());
  EXPECT_EQ(json["model"]["departures"], Json::array({"E1", "E9"}));
}

TEST(InspectTest, LayersOfDifferentWindowsAreTold) {
  const TemporaryDirectory directory;
  const std::string layer = R"({"mixers": [{"mixer": "attention", "unitKind": "UNIT_KIND_HEAD", "units": 2,
                                            "eigenvaluesPerUnit": 1, "transition": "scalar"}]})";
  const std::string window = absl::StrReplaceAll(layer, {{"\"scalar\"", "\"scalar\", \"window\": 4096"}});
  const std::string shorter = absl::StrReplaceAll(window, {{"4096", "128"}});
  const std::string worker =
      FakeWorker(directory,
                 absl::StrCat(R"({"family": "mixed", "layout": "x", "layers": 4, "model": {"layers": [)",
                              window, ", ", layer, ", ", window, ", ", shorter, "]}}"),
                 0);
  const CliSetup setup = {.env = {{"EIGSVC_WORKER", worker}}};
  const CliResult table = RunCli({"inspect", "m.pt"}, setup);
  ASSERT_EQ(table.exit_code, 0) << table.err;
  for (const char* line : {"layers 0, 2: attention: scalar, 2 heads, window 4096, 1 eigenvalue each",
                           "layer 1: attention: scalar, 2 heads, 1 eigenvalue each",
                           "layer 3: attention: scalar, 2 heads, window 128, 1 eigenvalue each"}) {
    EXPECT_THAT(table.out, HasSubstr(line));
  }
  const Json json = Json::parse(RunCli({"inspect", "m.pt", "-o", "json"}, setup).out);
  EXPECT_EQ(json["model"]["layers"][0]["mixers"][0]["window"], 4096);
  EXPECT_TRUE(json["model"]["layers"][1]["mixers"][0]["window"].is_null());
  EXPECT_EQ(json["model"]["layers"][3]["mixers"][0]["window"], 128);
}

TEST(InspectTest, AWorkersErrorIsThisProgramsOwn) {
  const TemporaryDirectory directory;
  const CliResult result = RunCli(
      {"inspect", "m.pt"}, {.env = {{"EIGSVC_WORKER", FakeWorker(directory, "eigsvc-worker: no m.pt", 69)}}});
  EXPECT_EQ(result.exit_code, kExitRpcBase + 5);
  EXPECT_THAT(result.err, HasSubstr("NOT_FOUND: no m.pt"));
  const CliResult broken = RunCli(
      {"inspect", "m.pt"}, {.env = {{"EIGSVC_WORKER", FakeWorker(directory, "Segmentation fault", 1)}}});
  EXPECT_EQ(broken.exit_code, kExitLocalFailure);
  EXPECT_THAT(broken.err, HasSubstr("Segmentation fault"));
}

TEST(InspectTest, WithoutAWorkerTheBytesSpeakAlone) {
  const TemporaryDirectory directory;
  const std::string header = R"({"wte.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  std::string file(8, '\0');
  file[0] = static_cast<char>(header.size());
  const std::string path = directory.Write("m.safetensors", file + header + std::string(4, '\0'));
  const CliResult result =
      RunCli({"inspect", path, "-o", "json"}, {.env = {{"EIGSVC_WORKER", "/nowhere/eigsvc-worker"}}});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("/nowhere/eigsvc-worker"));
  const Json json = Json::parse(result.out);
  EXPECT_TRUE(json["model"].is_null());
  EXPECT_EQ(json["nearest"]["family"], "gpt2");
  EXPECT_THAT(json["nearest"]["missing_keys"].dump(), HasSubstr("h.0.attn.c_attn.weight"));
  EXPECT_THAT(json["problem"].get<std::string>(), HasSubstr("the nearest is gpt2"));
}

TEST(InspectTest, DamagedFilesEndWithTheirCode) {
  const TemporaryDirectory directory;
  const CliResult result = RunCli({"inspect", directory.Write("junk.pt", "not a checkpoint")});
  EXPECT_GT(result.exit_code, kExitRpcBase);
  EXPECT_THAT(result.err, HasSubstr("junk.pt"));
}

TEST(HelpTest, EveryCommandHasHelp) {
  for (const char* command :
       {"analyze", "train", "models", "tasks", "checkpoints", "inspect", "jobs", "server"}) {
    const CliResult result = RunCli({command, "--help"});
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_THAT(result.out, HasSubstr(std::string("eigsvc ") + command));
  }
  EXPECT_THAT(RunCli({"--version"}).out, MatchesRegex("eigsvc [0-9]+\\.[0-9]+\\.[0-9]+\n"));
  EXPECT_THAT(RunCli({}).out, HasSubstr("Usage: eigsvc"));
}

}  // namespace
}  // namespace eigsvc::cli
