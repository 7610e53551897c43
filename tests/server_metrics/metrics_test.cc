#include "server/metrics/metrics.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/base/utf8.h"
#include "tests/testing/as_built.h"
#include "tests/testing/paths.h"

namespace eigsvc {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// A strict reader of text format 0.0.4, written from its description and sharing nothing with the serializer.
struct Exposition {
  std::map<std::string, std::string> types;  // by family
  std::map<std::string, double> samples;     // by name with labels as printed
  std::vector<std::string> problems;

  std::optional<double> Value(const std::string& sample) const {
    auto it = samples.find(sample);
    return it == samples.end() ? std::nullopt : std::optional<double>(it->second);
  }
};

Exposition Read(const std::string& text) {
  static const std::regex& kSample = *new std::regex(
      R"re(([a-zA-Z_:][a-zA-Z0-9_:]*)(\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*",?)*)\})? (\S+))re");
  Exposition result;
  std::string family;
  if (text.empty() || text.back() != '\n') result.problems.push_back("does not end in a line break");
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(text, '\n', absl::SkipEmpty()))) {
    if (absl::StartsWith(line, "# HELP ")) {
      const std::vector<std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 3));
      if (words.size() != 4 || words[3].empty()) result.problems.push_back("no help: " + line);
      if (absl::StrContains(line, "\\")) result.problems.push_back("backslash in help: " + line);
      continue;
    }
    if (absl::StartsWith(line, "# TYPE ")) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ');
      family = words.at(2);
      if (!result.types.emplace(family, words.at(3)).second)
        result.problems.push_back("two types: " + family);
      continue;
    }
    std::smatch match;
    if (!std::regex_match(line, match, kSample)) {
      result.problems.push_back("no sample: " + line);
      continue;
    }
    const std::string name = match[1];
    const bool belongs =
        name == family ||
        (result.types[family] == "histogram" &&
         (name == family + "_bucket" || name == family + "_sum" || name == family + "_count"));
    if (!belongs) result.problems.push_back("outside its family: " + line);
    double value = 0;
    if (!absl::SimpleAtod(match[4].str(), &value)) result.problems.push_back("no number: " + line);
    if (!result.samples.emplace(line.substr(0, line.rfind(' ')), value).second)
      result.problems.push_back("twice: " + line);
  }
  return result;
}

void UseEverything(Metrics& metrics) {
  metrics.RpcStarted("Analyze");
  metrics.RpcStarted("Analyze");
  metrics.RpcFinished("Analyze", "OK", absl::Milliseconds(20));
  metrics.JobStarted("analysis", absl::Seconds(2));
  metrics.JobStarted("analysis", absl::Seconds(4));
  metrics.JobFinished("analysis", "succeeded", absl::Seconds(3));
  metrics.JobRejected("queue_full");
  metrics.JobRetried("analysis");
  metrics.SetQueueDepth(3);
  metrics.SetQueueCapacity(64);
  metrics.SetResultBytes(1 << 20);
  metrics.AddEigenvalues("mqar", 1000);
  metrics.AddEigenvalues("mqar", 24);
  metrics.CancelTook(absl::Milliseconds(90));
  metrics.SetWorker("cuda:0", true, false);
  metrics.SetWorker("cpu", true, true);
  metrics.WorkerRestarted("cpu", "signal");
  metrics.SetWorkerProcess("cpu", getpid());
  metrics.AddStreamBytes("out", 4096);
  metrics.SetReady(true);
  metrics.SetDraining(false);
  metrics.JobPhaseTook("analysis", "load", absl::Seconds(7));
  metrics.SetPool("cpu", {{"id"}, 4000, 16000, 6000}, absl::Now());
  SpectrumSnapshot spectrum;
  spectrum.below_1 = {{900, 3}};
  spectrum.near_1 = 1;
  spectrum.nonfinite = 2;
  spectrum.scores = {{"accuracy", 0.5}};
  spectrum.max_log_magnitude = -0.5;
  metrics.SetSpectrum("m.pt", "mqar", {"cpu", "id"}, spectrum);
  metrics.SetTraining("tr-1", {"mamba2", "mqar", 5, 10, 1.5, 0.001, 2, 3000, {{"accuracy", 0.25}}, spectrum});
}

TEST(MetricsTest, EverySeriesHasItsValue) {
  Metrics metrics;
  UseEverything(metrics);
  const Exposition read = Read(metrics.Serialize());
  const std::map<std::string, double> expected = {
      {"eigsvc_rpcs_total{code=\"OK\",method=\"Analyze\"}", 1},
      {"eigsvc_rpcs_in_flight{method=\"Analyze\"}", 1},
      {"eigsvc_rpc_duration_seconds_count{method=\"Analyze\"}", 1},
      {"eigsvc_rpc_duration_seconds_sum{method=\"Analyze\"}", 0.02},
      {"eigsvc_rpc_duration_seconds_bucket{method=\"Analyze\",le=\"0.01\"}", 0},
      {"eigsvc_rpc_duration_seconds_bucket{method=\"Analyze\",le=\"0.025\"}", 1},
      {"eigsvc_rpc_duration_seconds_bucket{method=\"Analyze\",le=\"+Inf\"}", 1},
      {"eigsvc_jobs_total{kind=\"analysis\",outcome=\"succeeded\"}", 1},
      {"eigsvc_job_queue_wait_seconds_sum{kind=\"analysis\"}", 6},
      {"eigsvc_job_duration_seconds_sum{kind=\"analysis\"}", 3},
      {"eigsvc_jobs_in_flight{kind=\"analysis\"}", 1},
      {"eigsvc_jobs_rejected_total{reason=\"queue_full\"}", 1},
      {"eigsvc_job_retries_total{kind=\"analysis\"}", 1},
      {"eigsvc_job_queue_depth", 3},
      {"eigsvc_job_queue_capacity", 64},
      {"eigsvc_results_bytes", 1 << 20},
      {"eigsvc_eigenvalues_total{task=\"mqar\"}", 1024},
      {"eigsvc_cancel_latency_seconds_bucket{le=\"0.05\"}", 0},
      {"eigsvc_cancel_latency_seconds_bucket{le=\"0.1\"}", 1},
      {"eigsvc_worker_up{device=\"cuda:0\"}", 1},
      {"eigsvc_worker_busy{device=\"cuda:0\"}", 0},
      {"eigsvc_worker_busy{device=\"cpu\"}", 1},
      {"eigsvc_worker_restarts_total{cause=\"signal\",device=\"cpu\"}", 1},
      {"eigsvc_stream_bytes_total{direction=\"out\"}", 4096},
      {"eigsvc_job_phase_duration_seconds_sum{kind=\"analysis\",phase=\"load\"}", 7},
      {"eigsvc_worker_models{device=\"cpu\"}", 1},
      {"eigsvc_worker_model_bytes{device=\"cpu\"}", 4000},
      {"eigsvc_device_memory_bytes{device=\"cpu\",state=\"used\"}", 10000},
      {"eigsvc_device_memory_bytes{device=\"cpu\",state=\"free\"}", 6000},
      {"eigsvc_spectrum_modulus_count{model=\"m.pt\",task=\"mqar\"}", 3},
      {"eigsvc_spectrum_nonfinite_eigenvalues{model=\"m.pt\",task=\"mqar\"}", 2},
      {"eigsvc_task_score{model=\"m.pt\",task=\"mqar\",metric=\"accuracy\"}", 0.5},
      {"eigsvc_training_loss{model=\"mamba2\",task=\"mqar\"}", 1.5},
      {"eigsvc_ready", 1},
      {"eigsvc_draining", 0},
      {"eigsvc_build_info{version=\"" EIGSVC_VERSION "\"}", 1},
  };
  for (const auto& [sample, value] : expected) EXPECT_EQ(read.Value(sample), value) << sample;
}

TEST(MetricsTest, TextIsWellFormed) {
  Metrics metrics;
  UseEverything(metrics);
  const Exposition read = Read(metrics.Serialize());
  EXPECT_THAT(read.problems, ::testing::IsEmpty());
  for (const auto& [family, type] : read.types) {
    EXPECT_EQ(absl::EndsWith(family, "_total"), type == "counter") << family;
    EXPECT_TRUE(absl::StartsWith(family, "eigsvc_") || absl::StartsWith(family, "process_")) << family;
  }
}

TEST(MetricsTest, BucketsAreCumulativeAndEndInTheCount) {
  Metrics metrics;
  for (int ms : {0, 3, 40, 40, 700, 90000, 100000000})
    metrics.RpcFinished("Watch", "OK", absl::Milliseconds(ms));
  const Exposition read = Read(metrics.Serialize());
  std::map<double, double> buckets;
  for (const auto& [sample, value] : read.samples) {
    if (!absl::StartsWith(sample, "eigsvc_rpc_duration_seconds_bucket")) continue;
    const std::string edge = sample.substr(sample.find("le=\"") + 4);
    double le = 0;
    ASSERT_TRUE(absl::SimpleAtod(edge.substr(0, edge.find('"')), &le)) << sample;
    buckets[le] = value;
  }
  double previous = 0;
  for (const auto& [le, value] : buckets) {
    EXPECT_GE(value, previous) << le;
    previous = value;
  }
  EXPECT_EQ(buckets.at(0.05), 4);
  EXPECT_EQ(buckets.at(3600), 6);
  EXPECT_EQ(buckets.at(INFINITY), 7);
  EXPECT_EQ(read.Value("eigsvc_rpc_duration_seconds_count{method=\"Watch\"}"), 7);
}

TEST(MetricsTest, PrometheusOwnLinterAcceptsIt) {
  if (std::system("command -v promtool >/dev/null") != 0)
    GTEST_SKIP() << "no promtool: apt-get install prometheus";
  Metrics metrics;
  UseEverything(metrics);
  const std::string path = absl::StrCat(::testing::TempDir(), "/metrics_", getpid(), ".txt");
  std::ofstream(path) << metrics.Serialize();
  FILE* promtool = popen(absl::StrCat("promtool check metrics < ", path, " 2>&1").c_str(), "r");
  ASSERT_NE(promtool, nullptr);
  std::string said;
  for (int c; (c = fgetc(promtool)) != EOF;) said.push_back(static_cast<char>(c));
  EXPECT_EQ(pclose(promtool), 0);
  EXPECT_EQ(said, "");
  std::remove(path.c_str());
}

TEST(MetricsTest, StrangeLabelValuesBecomeOther) {
  Metrics metrics;
  const std::vector<std::string> strange = {"",
                                            "a\nb",
                                            "a\"} 1\nforged_total{x=\"",
                                            "back\\slash",
                                            "\xff\xfe",
                                            std::string(101, 'x'),
                                            std::string("a\0b", 3)};
  for (const std::string& value : strange) {
    metrics.AddEigenvalues(value, 1);
    metrics.RpcStarted(value);
    metrics.RpcFinished(value, value, absl::ZeroDuration());
    metrics.SetWorker(value, true, true);
  }
  SpectrumSnapshot spectrum;
  spectrum.below_1 = {{900, 3}};
  for (const std::string& value : strange) {
    metrics.SetSpectrum("m", value, {"cpu", "id"}, spectrum);
    metrics.SetTraining("tr-1", {"m", value, 5, 10, 1.5, 0.001, 2, 3000, {}, {}});
  }
  const std::vector<std::string> no_names = {
      "", "a\nb", "a\"} 1\nforged_total{x=\"", "\xff\xfe", std::string("a\0b", 3), "del\x7f", "c1\xc2\x85"};
  for (const std::string& value : no_names) {
    metrics.SetSpectrum(value, "mqar", {"cpu", "id"}, spectrum);
    metrics.SetTraining("tr-2", {value, "mqar", 5, 10, 1.5, 0.001, 2, 3000, {}, {}});
  }
  const std::string text = metrics.Serialize();
  const Exposition read = Read(text);
  EXPECT_THAT(read.problems, ::testing::IsEmpty());
  EXPECT_THAT(text, Not(HasSubstr("forged")));
  EXPECT_EQ(read.Value("eigsvc_spectrum_eigenvalues{model=\"m\",task=\"other\"}"), 3);
  EXPECT_EQ(read.Value("eigsvc_training_step{model=\"m\",task=\"other\"}"), 5);
  EXPECT_EQ(read.Value("eigsvc_spectrum_eigenvalues{model=\"other\",task=\"mqar\"}"), 3);
  EXPECT_EQ(read.Value("eigsvc_training_step{model=\"other\",task=\"mqar\"}"), 5);
  EXPECT_EQ(read.Value("eigsvc_eigenvalues_total{task=\"other\"}"), strange.size());
  EXPECT_EQ(read.Value("eigsvc_rpcs_total{code=\"other\",method=\"other\"}"), strange.size());
  EXPECT_EQ(read.Value("eigsvc_rpcs_in_flight{method=\"other\"}"), 0);
}

// All are names that a checkpoint may have under the root.
TEST(MetricsTest, ModelsKeepTheirNames) {
  Metrics metrics;
  const std::string directory(60, 'd');
  const std::vector<std::string> names = {
      "epoch=3-step=100.pt", "run@best,lr=1e-3.safetensors", "na\u00efve-\u00e9.pt", "\u6a21\u578b.pt",
      "quote\"d.pt", "a b (copy)#2.pt", std::string(100, 'x'),
      directory + "/step-1000/" + std::string(60, 'w') + ".pt",
      directory + "/step-2000/" + std::string(60, 'w') + ".pt",
      // The cut would go through a character.
      std::string(88, 'y') + "\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9",
      std::string(87, 'y') + "\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9"};
  for (size_t i = 0; i < names.size(); ++i) {
    SpectrumSnapshot spectrum;
    spectrum.below_1 = {{900, i + 1}};
    metrics.SetSpectrum(names[i], "mqar", {"cpu", "id"}, spectrum);
    metrics.SetTraining(absl::StrCat("tr-", i),
                        {names[i], "mqar", static_cast<int64_t>(i), 10, 1.5, 0.001, 2, 3000, {}, {}});
  }
  const std::string text = metrics.Serialize();
  const Exposition read = Read(text);
  EXPECT_THAT(read.problems, ::testing::IsEmpty());
  EXPECT_THAT(text, Not(HasSubstr("\"other\"")));
  std::map<double, std::string> shown;  // by the count, which tells them apart
  for (const auto& [sample, value] : read.samples) {
    if (!absl::StartsWith(sample, "eigsvc_spectrum_eigenvalues{")) continue;
    const size_t begin = sample.find("model=\"") + 7;
    shown[value] = sample.substr(begin, sample.rfind("\",task=") - begin);
  }
  ASSERT_EQ(shown.size(), names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string& name = shown[static_cast<double>(i + 1)];
    if (names[i].size() <= 100) {
      EXPECT_EQ(name, absl::StrReplaceAll(names[i], {{"\"", "\\\""}}));
    } else {
      EXPECT_LE(name.size(), 100u);
      EXPECT_EQ(name.substr(0, 80), names[i].substr(0, 80));
      EXPECT_EQ(ToUtf8(name, 200), name);  // whole characters
    }
    EXPECT_EQ(read.Value(absl::StrCat("eigsvc_training_step{model=\"", name, "\",task=\"mqar\"}")), i);
  }
}

TEST(MetricsTest, CardinalityIsBoundedAndGaugesStillBalance) {
  Metrics metrics;
  for (int i = 0; i < 1000; ++i) metrics.RpcStarted(absl::StrCat("Method", i));
  for (int i = 999; i >= 0; --i) metrics.RpcFinished(absl::StrCat("Method", i), "OK", absl::Seconds(1));
  const Exposition read = Read(metrics.Serialize());
  int series = 0;
  for (const auto& [sample, value] : read.samples) {
    if (!absl::StartsWith(sample, "eigsvc_rpcs_in_flight{")) continue;
    ++series;
    EXPECT_EQ(value, 0) << sample;
  }
  EXPECT_EQ(series, 65);  // 64 and "other"
  EXPECT_EQ(read.Value("eigsvc_rpcs_total{code=\"OK\",method=\"other\"}"), 1000 - 64);
}

TEST(MetricsTest, EndlessAndNegativeDurationsKeepTheSumFinite) {
  Metrics metrics;
  metrics.CancelTook(absl::InfiniteDuration());
  metrics.CancelTook(-absl::InfiniteDuration());
  metrics.CancelTook(-absl::Seconds(3));
  const Exposition read = Read(metrics.Serialize());
  EXPECT_EQ(read.Value("eigsvc_cancel_latency_seconds_count"), 3);
  EXPECT_EQ(read.Value("eigsvc_cancel_latency_seconds_sum"), 1e9);
}

TEST(MetricsTest, CountersNeverGoDown) {
  Metrics metrics;
  metrics.AddEigenvalues("mqar", 5);
  metrics.AddEigenvalues("mqar", -3);
  metrics.AddStreamBytes("in", -1);
  const Exposition read = Read(metrics.Serialize());
  EXPECT_EQ(read.Value("eigsvc_eigenvalues_total{task=\"mqar\"}"), 5);
  EXPECT_EQ(read.Value("eigsvc_stream_bytes_total{direction=\"in\"}"), std::nullopt);
}

TEST(MetricsTest, ProcessSeriesDescribeThisProcess) {
  Metrics metrics;
  const Exposition before = Read(metrics.Serialize());
  // Independent sources: getrusage-like CPU clock, the wall clock, and descriptors opened here.
  const double cpu = static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  EXPECT_NEAR(*before.Value("process_cpu_seconds_total"), cpu, 0.1);
  const double age = static_cast<double>(std::time(nullptr)) - *before.Value("process_start_time_seconds");
  EXPECT_GE(age, -2);
  EXPECT_LE(age, 300);
  EXPECT_GT(*before.Value("process_resident_memory_bytes"), 1 << 20);
  EXPECT_GE(*before.Value("process_virtual_memory_bytes"), *before.Value("process_resident_memory_bytes"));
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  const Exposition after = Read(metrics.Serialize());
  EXPECT_EQ(*after.Value("process_open_fds"), *before.Value("process_open_fds") + 2);
  EXPECT_GE(*after.Value("process_max_fds"), *after.Value("process_open_fds"));
  close(fds[0]);
  close(fds[1]);
}

TEST(MetricsTest, WorkerMemoryIsReadAtScrapeTimeAndVanishesWithTheProcess) {
  Metrics metrics;
  const std::string sample = "eigsvc_worker_resident_memory_bytes{device=\"cpu\"}";
  EXPECT_EQ(Read(metrics.Serialize()).Value(sample), std::nullopt);
  metrics.SetWorkerProcess("cpu", getpid());
  EXPECT_GT(Read(metrics.Serialize()).Value(sample), 1 << 20);
  metrics.SetWorkerProcess("cpu", int64_t{1} << 30);  // no such process
  EXPECT_EQ(Read(metrics.Serialize()).Value(sample), std::nullopt);
  metrics.SetWorkerProcess("cpu", 0);
  EXPECT_EQ(Read(metrics.Serialize()).Value(sample), std::nullopt);
}

TEST(MetricsTest, CountersOfKnownLabelsStartAtZero) {
  Metrics metrics;
  metrics.SetWorker("cpu", true, false);
  const Exposition read = Read(metrics.Serialize());
  EXPECT_EQ(read.Value("eigsvc_jobs_total{kind=\"training\",outcome=\"failed\"}"), 0);
  EXPECT_EQ(read.Value("eigsvc_jobs_rejected_total{reason=\"queue_full\"}"), 0);
  EXPECT_EQ(read.Value("eigsvc_job_retries_total{kind=\"analysis\"}"), 0);
  for (const char* cause : {"signal", "exit", "unresponsive", "cancel_ignored", "start_failed",
                            "connection_lost", "launch_failed"}) {
    EXPECT_EQ(read.Value(absl::StrCat("eigsvc_worker_restarts_total{cause=\"", cause, "\",device=\"cpu\"}")),
              0)
        << cause;
  }
}

// A rule's test with a label value that nothing exports would prove nothing.
TEST(MetricsTest, TheAlertsTestsUseCausesThatAreExported) {
  Metrics metrics;
  metrics.SetWorker("cpu", true, false);
  const std::string text = metrics.Serialize();
  std::ifstream file(testing::SourcePath("deploy/prometheus/tests.yml"));
  const std::string tests{std::istreambuf_iterator<char>(file), {}};
  const std::regex cause("cause=\"[^\"]*\"");
  int causes = 0;
  for (std::sregex_iterator at(tests.begin(), tests.end(), cause), end; at != end; ++at, ++causes) {
    EXPECT_THAT(text, HasSubstr(at->str()));
  }
  EXPECT_GT(causes, 1);
}

// 16 models, 5 tasks each, every bin of every spectrum filled.
TEST(MetricsTest, AFullScrapeIsSmallAndFast) {
  Metrics metrics;
  UseEverything(metrics);
  SpectrumSnapshot spectrum;
  for (int bin = 0; bin < 42 * 32; ++bin) spectrum.below_1[bin] = spectrum.beyond_1[bin] = 1000 + bin;
  for (int cell = 0; cell < 2 * 42 * 64; ++cell) spectrum.phase[cell] = 1;
  spectrum.scores = {{"accuracy", 0.5}, {"perplexity", 12}};
  spectrum.near_1 = 77;
  for (int model = 0; model < 16; ++model) {
    for (int task = 0; task < 5; ++task) {
      metrics.SetSpectrum(absl::StrCat("model-", model), absl::StrCat("task-", task), {"cpu", "id"},
                          spectrum);
    }
    metrics.SetTraining(
        absl::StrCat("tr-", model),
        {absl::StrCat("model-", model), "task-0", 1, 2, 3, 4, 5, 6, {{"accuracy", 0.5}}, spectrum});
  }
  for (const MetricsFormat format : {MetricsFormat::kPrometheusText, MetricsFormat::kOpenMetrics}) {
    const absl::Duration limit = testing::AsBuilt(absl::Milliseconds(50));
    absl::Duration fastest = absl::InfiniteDuration();
    std::string text;
    // The fastest: what else the machine does only adds to a time.
    for (int i = 0; i < 10 || (i < 100 && fastest > limit); ++i) {
      const absl::Time start = absl::Now();
      text = metrics.Serialize(format);
      fastest = std::min(fastest, absl::Now() - start);
    }
    int64_t series = 0;
    for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty()))
      series += line[0] != '#';
    EXPECT_GT(series, 80 * 70);
    EXPECT_LT(series, 10000);
    EXPECT_LE(fastest, limit);
    RecordProperty(format == MetricsFormat::kOpenMetrics ? "openmetrics" : "text",
                   absl::StrCat(series, " series, ", text.size(), " bytes, ", absl::FormatDuration(fastest)));
  }
}

TEST(MetricsTest, CountsFromManyThreadsAreExact) {
  Metrics metrics;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&metrics, t] {
      for (int i = 0; i < 500; ++i) {
        metrics.RpcStarted(absl::StrCat("Method", i % 7));
        metrics.RpcFinished(absl::StrCat("Method", i % 7), "OK", absl::Milliseconds(t));
        metrics.SetWorkerProcess("cpu", getpid());
        if (i % 100 == 0) metrics.Serialize();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  double total = 0;
  const Exposition read = Read(metrics.Serialize());
  for (const auto& [sample, value] : read.samples) {
    if (absl::StartsWith(sample, "eigsvc_rpcs_total{")) total += value;
  }
  EXPECT_EQ(total, 2000);
}

}  // namespace
}  // namespace eigsvc
