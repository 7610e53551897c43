// Analyses on a CUDA device: every family against the CPU, eigenvalues counted on the device against the same
// ones counted on the host, and what happens when the device's memory does not do.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>

#include "ATen/TensorOperators.h"
#include "ATen/ops/embedding.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/full.h"
#include "ATen/ops/ones.h"
#include "absl/strings/str_cat.h"
#include "c10/core/CachingDeviceAllocator.h"
#include "cuda_runtime_api.h"
#include "gtest/gtest.h"
#include "models/analysis/analysis.h"
#include "models/analysis/shared_analysis.h"
#include "models/tensor/attention_lse.h"
#include "models/tensor/device.h"
#include "models/tensor/torch_call.h"
#include "tests/analysis/fakes.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tiny_models.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::FakeTask;
using ::eigsvc::testing::kTinyVocabulary;
using ::eigsvc::testing::TinyModel;

const c10::Device kCuda(c10::kCUDA, 0);
const bool kFullFloat32 = [] { return RequireFullFloat32(), true; }();

absl::StatusOr<AnalysisResult> Analyse(const SequenceModel& model, const Task& task,
                                       const AnalysisOptions& options) {
  return CallTorch("analysis", [&] { return RunAnalysis(model, task, options, nullptr, StopToken()); });
}

// The same weights on the device.
absl::StatusOr<std::shared_ptr<const SequenceModel>> OnCuda(const TinyModel& tiny, c10::ScalarType dtype) {
  const absl::StatusOr<const FamilyEntry*> family = FindFamily(tiny.family);
  if (!family.ok()) return family.status();
  return CallTorch("initialise", [&] {
    return InitializeModel(**family, tiny.settings, 1, {.device = kCuda, .dtype = dtype});
  });
}

int64_t StepsFor(const ModelDescription& model) {
  return model.max_positions > 0 ? std::min<int64_t>(33, model.max_positions) : 33;
}

class FamilyGpuTest : public ::testing::TestWithParam<TinyModel> {};

TEST_P(FamilyGpuTest, SpectraAreThoseOfTheCpu) {
  const auto cpu = testing::MakeTiny(GetParam());
  EIGSVC_ASSERT_OK(cpu.status());
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto cuda, OnCuda(GetParam(), c10::kFloat));
  const int64_t steps = StepsFor((*cpu)->description());
  const FakeTask task(24, kTinyVocabulary, steps, steps);
  AnalysisOptions options;
  options.batch_size = 8;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult expected, Analyse(**cpu, task, options));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult found, Analyse(*cuda, task, options));
  // Writing every eigenvalue brings them to the host, which then counts them.
  options.export_path = absl::StrCat(::testing::TempDir(), "/analysis_gpu_test.safetensors");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult on_host, Analyse(*cuda, task, options));
  std::filesystem::remove(options.export_path);

  EXPECT_EQ(found.eigenvalues, expected.eigenvalues);
  ASSERT_EQ(found.sites.size(), expected.sites.size());
  for (size_t i = 0; i < found.sites.size(); ++i) {
    const SiteSpectrum &mine = found.sites[i], &theirs = expected.sites[i];
    EXPECT_EQ(mine.site, theirs.site);
    EXPECT_EQ(mine.multiplicities, theirs.multiplicities);
    const std::string where =
        absl::StrCat("layer ", mine.site.layer, ", ", mine.site.mixer, ", unit ", mine.site.unit);
    EXPECT_TRUE(mine.spectrum.parts() == on_host.sites[i].spectrum.parts()) << where;
    const Spectrum &a = mine.spectrum, &b = theirs.spectrum;
    EXPECT_EQ(a.count(), b.count()) << where;
    EXPECT_EQ(a.nonfinite(), b.nonfinite()) << where;
    EXPECT_EQ(a.has_phase(), b.has_phase()) << where;
    // Of a singular matrix log|λ| is what rounding made of -inf.
    if (std::isnan(b.Mean()) || b.Min() < std::log(0x1p-45)) continue;
    const double floor = std::max({1e-5, 4 * a.noise_floor(), 4 * b.noise_floor()});
    const double size =
        std::max({1.0, std::abs(b.Min()) < 1e30 ? std::abs(b.Min()) : 1.0, std::abs(b.Max())});
    EXPECT_NEAR(a.Mean(), b.Mean(), floor * size) << where;
    EXPECT_NEAR(a.Max(), b.Max(), 10 * floor * size) << where;
    EXPECT_NEAR(a.Quantile(0.5), b.Quantile(0.5), 0.04 * size) << where;
  }
}

// 16 bits on the device against the CPU's float32: a site's mean log|λ| within 2 % of it, or 0.001 where it
// is near 0. On a CPU the same weights in bfloat16 move it by 0.7 % at most, of all families (2.13).
TEST_P(FamilyGpuTest, SixteenBitsAreNearTheCpusFloat32) {
  const auto cpu = testing::MakeTiny(GetParam());
  EIGSVC_ASSERT_OK(cpu.status());
  const int64_t steps = StepsFor((*cpu)->description());
  const FakeTask task(24, kTinyVocabulary, steps, steps);
  AnalysisOptions options;
  options.batch_size = 8;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult expected, Analyse(**cpu, task, options));
  for (const c10::ScalarType type : {c10::kBFloat16, c10::kHalf}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto cuda, OnCuda(GetParam(), type));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult found, Analyse(*cuda, task, options));
    EXPECT_EQ(found.eigenvalues, expected.eigenvalues);
    ASSERT_EQ(found.sites.size(), expected.sites.size());
    for (size_t i = 0; i < found.sites.size(); ++i) {
      const Spectrum &a = found.sites[i].spectrum, &b = expected.sites[i].spectrum;
      const Site& site = found.sites[i].site;
      const std::string where =
          absl::StrCat(c10::toString(type), ", layer ", site.layer, ", ", site.mixer, ", unit ", site.unit);
      EXPECT_EQ(a.count(), b.count()) << where;
      EXPECT_EQ(a.nonfinite(), b.nonfinite()) << where;
      // Of a singular matrix log|λ| is what rounding made of -inf.
      if (std::isnan(b.Mean()) || b.Min() < std::log(0x1p-45)) continue;
      EXPECT_NEAR(a.Mean(), b.Mean(), 0.02 * std::abs(b.Mean()) + 1e-3) << where;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyGpuTest, ::testing::ValuesIn(testing::TinyTokenModels()),
                         [](const auto& param) { return testing::TinyModelName(param.param); });

// Two cards where there are two; the first with a copy on the CPU where there is one.
TEST_P(FamilyGpuTest, TwoDevicesCountWhatOneDoes) {
  const auto first = OnCuda(GetParam(), c10::kFloat);
  EIGSVC_ASSERT_OK(first.status());
  const SequenceModel& model = **first;
  int cards = 0;
  ASSERT_EQ(cudaGetDeviceCount(&cards), cudaSuccess);
  const c10::Device other = cards > 1 ? c10::Device(c10::kCUDA, 1) : c10::Device(c10::kCPU);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ModelWeights copy,
                              CallTorch("copy", [&] { return model.weights().On(other); }));
  const FakeTask task(12, kTinyVocabulary, StepsFor(model.description()), 30);
  AnalysisOptions options;
  options.batch_size = 3;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult one, Analyse(model, task, options));
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const AnalysisResult two,
      RunSharedAnalysis(model, {&model.weights(), &copy}, task, options, nullptr, StopToken::Never()));
  EXPECT_EQ(two.eigenvalues, one.eigenvalues);
  EXPECT_EQ(two.examples, one.examples);
  ASSERT_EQ(two.sites.size(), one.sites.size());
  for (size_t i = 0; i < one.sites.size(); ++i) {
    EXPECT_EQ(two.sites[i].site, one.sites[i].site);
    EXPECT_EQ(two.sites[i].spectrum.count(), one.sites[i].spectrum.count());
    if (cards > 1) {  // the same kernels: the same bits
      EXPECT_TRUE(two.sites[i].spectrum.parts() == one.sites[i].spectrum.parts()) << "site " << i;
    }
  }
}

TEST(AnalysisGpuTest, TheFusedOperatorsOfThisDeviceAreGood) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const std::string verdict, SelfTestAttention(kCuda));
  EXPECT_EQ(verdict.find("off ("), std::string::npos) << verdict;
  EXPECT_NE(verdict.find("cuda flash: good"), std::string::npos) << verdict;
  EXPECT_NE(verdict.find("cuda efficient: good"), std::string::npos) << verdict;
}

TEST(AnalysisGpuTest, ABatchThatDoesNotFitIsHalvedAndCountedOnce) {
  const TinyModel llama{"llama", "", "", [] {
                          Settings settings;
                          settings.Set("vocab_size", kTinyVocabulary);
                          return settings;
                        }()};
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, OnCuda(llama, c10::kFloat));
  const FakeTask task(64, kTinyVocabulary, 4096, 4096);
  AnalysisOptions options;
  options.batch_size = 4;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult roomy, Analyse(*model, task, options));
  // All but some 300 MB of the device: 64 rows of 4096 steps take more for a layer's activations.
  size_t free_bytes = 0, total_bytes = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
  at::Tensor filler = at::empty({static_cast<int64_t>(free_bytes) - (int64_t{300} << 20)},
                                at::TensorOptions().dtype(at::kByte).device(kCuda));
  options.batch_size = 64;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult tight, Analyse(*model, task, options));
  EXPECT_LT(tight.batch_size, 64);
  EXPECT_GT(tight.halvings, 0);
  EXPECT_LE(tight.halved_to, tight.batch_size);
  EXPECT_EQ(roomy.halvings, 0);
  EXPECT_EQ(tight.examples, 64);
  EXPECT_EQ(tight.eigenvalues, roomy.eigenvalues);
  for (size_t i = 0; i < tight.sites.size(); ++i) {
    EXPECT_EQ(tight.sites[i].spectrum.count(), roomy.sites[i].spectrum.count());
    EXPECT_NEAR(tight.sites[i].spectrum.Mean(), roomy.sites[i].spectrum.Mean(), 1e-5);
  }
  filler.reset();
  c10::getDeviceAllocator(c10::kCUDA)->emptyCache();  // libraries beside LibTorch take memory of their own
}

// In a process of its own, whose device it breaks: what a worker ends for.
TEST(AnalysisGpuDeathTest, ADeviceSideAssertIsStickyAndStays) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto break_and_exit = [] {
    const absl::StatusOr<double> broken = CallTorch("embed", [] {
      const at::Tensor beyond = at::full({2}, 100, at::TensorOptions().dtype(at::kLong).device(kCuda));
      return at::embedding(at::ones({4, 8}, kCuda), beyond).sum().item<double>();
    });
    const absl::StatusOr<double> later =
        CallTorch("later", [] { return at::ones({4}, kCuda).sum().item<double>(); });
    const bool sticky = broken.status().GetPayload(kStickyCudaErrorUrl).has_value() &&
                        later.status().GetPayload(kStickyCudaErrorUrl).has_value();
    _exit(sticky ? 70 : 1);
  };
  EXPECT_EXIT(break_and_exit(), ::testing::ExitedWithCode(70), "");
}

}  // namespace
}  // namespace eigsvc
