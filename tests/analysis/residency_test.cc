// Layers that are read from the checkpoint one at a time give the very results of layers that are all held.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/analysis/analysis.h"
#include "models/archive/archive.h"
#include "models/zoo/registry.h"
#include "tests/analysis/fakes.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tiny_models.h"

namespace eigsvc {
namespace {

using ::testing::Each;
using testing::FakeModel;
using testing::FakeTask;
using ::testing::HasSubstr;
using testing::StatusIs;
using testing::TinyModel;

class ResidencyTest : public ::testing::TestWithParam<TinyModel> {
 protected:
  void SetUp() override {
    directory_ = ::testing::TempDir() + absl::StrCat("eigsvc_residency_", getpid());
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string ReadFile(const std::string& name) const {
    std::ifstream file(directory_ + "/" + name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::string directory_;
};

TEST_P(ResidencyTest, GivesTheSameBits) {
  const std::string path = directory_ + "/model.safetensors";
  {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, testing::MakeTiny(GetParam()));
    EIGSVC_ASSERT_OK(SaveModel(*model, model->weights(), {}, path));
  }
  const FakeTask task(11, testing::kTinyVocabulary, 17, 17);
  std::vector<AnalysisResult> results;
  // Held whole; streamed with all examples sharing each layer; streamed again for every batch; kept as the
  // first batch runs.
  for (const auto& [residency, held_bytes, as_it_runs] :
       {std::tuple(Residency::kAll, int64_t{1}, false),
        std::tuple(Residency::kLayer, int64_t{1} << 30, false),
        std::tuple(Residency::kLayer, int64_t{1}, false), std::tuple(Residency::kAll, int64_t{1}, true)}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(path, {.on_demand = true}));
    LoadOptions load;
    load.residency = residency;
    load.as_it_runs = as_it_runs;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, LoadModel(archive, {}, load));
    EXPECT_EQ(model->weights().streamed(), residency == Residency::kLayer);
    if (residency == Residency::kLayer || as_it_runs) {
      for (const Weights& layer : model->weights().layers) EXPECT_TRUE(layer.all().empty());
    }
    AnalysisOptions options;
    options.batch_size = 4;
    options.held_bytes = held_bytes;
    options.export_path = directory_ + absl::StrCat("/export", results.size(), ".safetensors");
    EIGSVC_ASSERT_OK_AND_ASSIGN(AnalysisResult result,
                                RunAnalysis(*model, task, options, nullptr, StopToken()));
    results.push_back(std::move(result));
  }
  const AnalysisResult& whole = results[0];
  ASSERT_FALSE(whole.sites.empty());
  for (size_t i = 1; i < results.size(); ++i) {
    ASSERT_EQ(results[i].sites.size(), whole.sites.size());
    for (size_t site = 0; site < whole.sites.size(); ++site) {
      EXPECT_EQ(results[i].sites[site].site, whole.sites[site].site);
      const Spectrum &found = results[i].sites[site].spectrum, &expected = whole.sites[site].spectrum;
      EXPECT_TRUE(found.parts() == expected.parts());
    }
    EXPECT_EQ(results[i].score.value, whole.score.value);
    EXPECT_EQ(results[i].score.also, whole.score.also);
    EXPECT_EQ(results[i].tokens, whole.tokens);
    const std::string exported = ReadFile(absl::StrCat("export", i, ".safetensors"));
    EXPECT_TRUE(exported == ReadFile("export0.safetensors"));
  }
}

TEST_P(ResidencyTest, ALayerThatComesAsItRunsStays) {
  const std::string path = directory_ + "/model.safetensors";
  {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, testing::MakeTiny(GetParam()));
    EIGSVC_ASSERT_OK(SaveModel(*model, model->weights(), {}, path));
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(path, {.on_demand = true}));
  LoadOptions load;
  load.as_it_runs = true;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, LoadModel(archive, {}, load));
  const ModelWeights& weights = model->weights();
  ASSERT_NE(weights.source, nullptr);
  EXPECT_FALSE(weights.source->Kept(0).has_value());
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ModelWeights whole, weights.Whole());
  EXPECT_EQ(whole.source, nullptr);
  std::filesystem::resize_file(path, 16);  // from here on nothing is read any more
  for (int layer = 0; layer < static_cast<int>(weights.layers.size()); ++layer) {
    EXPECT_TRUE(weights.source->Kept(layer).has_value());
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Weights again, weights.Layer(layer));
    const Weights& first = whole.layers[static_cast<size_t>(layer)];
    ASSERT_EQ(again.all().size(), first.all().size());
    for (const auto& [name, tensor] : first.all()) EXPECT_TRUE(again[name].is_same(tensor)) << name;
  }
}

TEST_P(ResidencyTest, ADescriptionNeedsNoWeights) {
  const std::string path = directory_ + "/model.safetensors";
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, testing::MakeTiny(GetParam()));
  EIGSVC_ASSERT_OK(SaveModel(*model, model->weights(), {}, path));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(path, {.on_demand = true}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ModelOutline outline, DescribeModel(archive, {}));
  EXPECT_EQ(outline.description.settings.ToJson(), model->description().settings.ToJson());
  EXPECT_EQ(outline.description.parameters, model->description().parameters);
  EXPECT_EQ(outline.description.mixers.size(), model->description().mixers.size());
  EXPECT_EQ(outline.plan.size(), model->plan().size());
  int64_t bytes = 0;
  for (const WeightSpec& spec : model->plan()) {
    if (!spec.tied_to.empty()) continue;
    const ModelWeights& weights = model->weights();
    const Weights& place = spec.layer == WeightSpec::kOuter ? weights.outer : weights.layers[spec.layer];
    bytes += static_cast<int64_t>(place[spec.name].nbytes());
  }
  EXPECT_EQ(BytesOf(outline.plan, model->dtype()).All(), bytes);
}

INSTANTIATE_TEST_SUITE_P(Zoo, ResidencyTest, ::testing::ValuesIn(testing::TinyTokenModels()),
                         [](const auto& tiny) { return testing::TinyModelName(tiny.param); });

// Counts the loads of each layer, and can fail in one.
class CountingSource final : public LayerSource {
 public:
  CountingSource(int layers, int broken) : loads(static_cast<size_t>(layers)), broken_(broken) {}
  absl::StatusOr<Weights> Load(int layer, const StopToken&) const override {
    ++loads[static_cast<size_t>(layer)];
    if (layer == broken_) return absl::DataLossError("layer is damaged");
    return Weights();
  }
  mutable std::vector<int> loads;

 private:
  const int broken_;
};

ModelWeights Streamed(const SequenceModel& model, std::shared_ptr<const LayerSource> source) {
  ModelWeights weights = model.weights();
  weights.source = std::move(source);
  return weights;
}

absl::Status ReportNothing(int, const at::Tensor&, const LayerContext&) { return absl::OkStatus(); }

TEST(LayerStreamTest, LayersAreReadOnceForAsManyExamplesAsAreHeld) {
  constexpr int kLayers = 5;
  const FakeModel model(kLayers, 23, ReportNothing);
  const FakeTask task(40, 23, /*steps=*/8, 8);  // 8 steps of 4 bytes a row
  AnalysisOptions options;
  options.batch_size = 5;
  const auto all = std::make_shared<CountingSource>(kLayers, -1);
  EIGSVC_ASSERT_OK(RunAnalysis(model, Streamed(model, all), task, options, nullptr, StopToken()));
  EXPECT_THAT(all->loads, Each(1));
  options.held_bytes = 20 * 8 * 4;  // half of the rows
  const auto halves = std::make_shared<CountingSource>(kLayers, -1);
  EIGSVC_ASSERT_OK(RunAnalysis(model, Streamed(model, halves), task, options, nullptr, StopToken()));
  EXPECT_THAT(halves->loads, Each(2));
}

TEST(LayerStreamTest, ALayerThatCannotBeReadEndsTheRun) {
  const FakeModel model(4, 23, ReportNothing);
  const auto source = std::make_shared<CountingSource>(4, 2);
  EXPECT_THAT(RunAnalysis(model, Streamed(model, source), FakeTask(9, 23, 8, 8), AnalysisOptions(), nullptr,
                          StopToken()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("damaged")));
  EXPECT_EQ(source->loads[3], 0);
}

}  // namespace
}  // namespace eigsvc
