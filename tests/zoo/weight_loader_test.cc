#include "models/zoo/weight_loader.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/ops/equal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/stopping.h"

namespace eigsvc {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::StatusIs;

template <typename T>
ArchiveTensor Stored(ElementType type, std::vector<int64_t> shape, const std::vector<T>& values) {
  const auto bytes = std::make_shared<std::vector<std::byte>>(values.size() * sizeof(T));
  std::memcpy(bytes->data(), values.data(), bytes->size());
  ArchiveTensor tensor{type, shape, std::vector<int64_t>(shape.size(), 1), 0, *bytes, bytes};
  for (size_t i = shape.size(); i-- > 1;) tensor.strides[i - 1] = tensor.strides[i] * shape[i];
  return tensor;
}

ArchiveTensor Floats(std::vector<int64_t> shape, const std::vector<float>& values) {
  return Stored(ElementType::kFloat32, std::move(shape), values);
}

WeightPlan SmallPlan() {
  return {{WeightSpec::kOuter, "embedding", "emb.weight", {2, 3}, DrawNormal(1)},
          {WeightSpec::kOuter, "head", "head.weight", {2, 3}, DrawNormal(1), false, false, "embedding"},
          {0, "w", "layers.0.w", {2, 3}, DrawLinear(3), /*transposed=*/true},
          {1, "rate", "layers.1.rate", {2}, DrawConstant(1), false, /*keep_float32=*/true}};
}

absl::btree_map<std::string, ArchiveTensor> SmallTensors() {
  return {{"emb.weight", Floats({2, 3}, {1, 2, 3, 4, 5, 6})},
          {"layers.0.w", Floats({3, 2}, {1, 4, 2, 5, 3, 6})},
          {"layers.1.rate", Floats({2}, {0.5, 0.25})}};
}

absl::StatusOr<ModelWeights> Load(absl::btree_map<std::string, ArchiveTensor> tensors,
                                  LoadOptions options = {}, std::vector<std::string> ignored = {}) {
  return LoadWeights(Archive(std::move(tensors), {}, "small.safetensors"), SmallPlan(), ignored, {}, options);
}

TEST(WeightLoaderTest, TransposesTiesAndKeepsRatesWide) {
  LoadOptions options;
  options.dtype = c10::kBFloat16;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ModelWeights weights, Load(SmallTensors(), options));
  ASSERT_EQ(weights.layers.size(), 2u);
  EXPECT_TRUE(weights.outer["head"].is_same(weights.outer["embedding"]));
  EXPECT_EQ(weights.Distinct().size(), 3u);
  EXPECT_TRUE(at::equal(weights.layers[0]["w"], weights.outer["embedding"]));
  EXPECT_EQ(weights.layers[0]["w"].scalar_type(), c10::kBFloat16);
  EXPECT_EQ(weights.layers[1]["rate"].scalar_type(), c10::kFloat);
}

TEST(WeightLoaderTest, AFloat64ModelHasFloat64Rates) {
  LoadOptions options;
  options.dtype = c10::kDouble;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ModelWeights weights, Load(SmallTensors(), options));
  EXPECT_EQ(weights.layers[1]["rate"].scalar_type(), c10::kDouble);
}

TEST(WeightLoaderTest, ClonesStayTied) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ModelWeights weights, Load(SmallTensors()));
  const ModelWeights clone = weights.Clone(/*requires_grad=*/true);
  EXPECT_TRUE(clone.outer["head"].is_same(clone.outer["embedding"]));
  EXPECT_FALSE(clone.outer["head"].is_same(weights.outer["head"]));
  EXPECT_TRUE(clone.outer["head"].requires_grad());
  EXPECT_FALSE(weights.outer["head"].requires_grad());
}

TEST(WeightLoaderTest, ListsEverythingThatIsWrongAtOnce) {
  auto tensors = SmallTensors();
  tensors.erase("layers.1.rate");
  tensors["layers.0.w"] = Floats({2, 3}, {1, 2, 3, 4, 5, 6});
  tensors["stray"] = Floats({1}, {1});
  EXPECT_THAT(Load(tensors),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("small.safetensors"), HasSubstr("1 missing key: layers.1.rate"),
                             HasSubstr("1 unexpected key: stray"),
                             HasSubstr("layers.0.w has shape [2, 3] where [3, 2] is expected"))));
}

TEST(WeightLoaderTest, IgnoredPatternsAreNotUnexpected) {
  auto tensors = SmallTensors();
  tensors["layers.0.rotary_emb.inv_freq"] = Floats({1}, {1});
  EIGSVC_EXPECT_OK(Load(tensors, {}, {"*.rotary_emb.inv_freq"}));
  EXPECT_THAT(Load(tensors), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("inv_freq")));
}

TEST(WeightLoaderTest, NaNAndInfinityAreDataLossAndNamed) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), kInfinity, -kInfinity}) {
    auto tensors = SmallTensors();
    tensors["layers.0.w"] = Floats({3, 2}, {1, 4, 2, bad, 3, 6});
    EXPECT_THAT(Load(tensors),
                StatusIs(absl::StatusCode::kDataLoss,
                         AllOf(HasSubstr("layers.0.w"), HasSubstr("index 3"), Not(HasSubstr("emb")))));
  }
}

TEST(WeightLoaderTest, IntegersAreNoWeights) {
  auto tensors = SmallTensors();
  tensors["layers.1.rate"] = Stored<int64_t>(ElementType::kInt64, {2}, {1, 2});
  EXPECT_THAT(Load(tensors),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("layers.1.rate (I64)")));
}

TEST(WeightLoaderTest, ATiedWeightMayBeStoredOnlyIfItIsTheSame) {
  auto tensors = SmallTensors();
  tensors["head.weight"] = tensors["emb.weight"];
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ModelWeights weights, Load(tensors));
  EXPECT_TRUE(weights.outer["head"].is_same(weights.outer["embedding"]));
  tensors["head.weight"] = Floats({2, 3}, {1, 2, 3, 4, 5, 7});
  EXPECT_THAT(Load(tensors), StatusIs(absl::StatusCode::kFailedPrecondition,
                                      AllOf(HasSubstr("head.weight"), HasSubstr("tie_embeddings"))));
}

// More than one block: each in its place, and what is bad is found wherever it is.
TEST(WeightLoaderTest, LargeWeightsAreConvertedWholly) {
  constexpr int64_t kRows = 3, kColumns = int64_t{3} << 20;  // cut along the second dimension
  std::vector<float> values(kRows * kColumns);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 1021);
  for (const bool transposed : {false, true}) {
    const std::vector<int64_t> stored = {kRows, kColumns};
    const std::vector<int64_t> shape = transposed ? std::vector{kColumns, kRows} : stored;
    const WeightPlan plan = {{WeightSpec::kOuter, "w", "w", shape, DrawConstant(0), transposed}};
    const auto load = [&](c10::ScalarType dtype) {
      return LoadWeights(Archive({{"w", Floats(stored, values)}}, {}, "large"), plan, {}, {},
                         {.dtype = dtype});
    };
    EIGSVC_ASSERT_OK_AND_ASSIGN(const ModelWeights wide, load(c10::kDouble));
    const at::Tensor loaded = transposed ? wide.outer["w"].t().contiguous() : wide.outer["w"];
    ASSERT_TRUE(wide.outer["w"].is_contiguous());
    for (int64_t i = 0; i < loaded.numel(); ++i) {
      ASSERT_EQ(loaded.const_data_ptr<double>()[i], values[static_cast<size_t>(i)]) << i;
    }
    const float kept = std::exchange(values[2 * kColumns + 5], std::nanf(""));
    for (const c10::ScalarType dtype : {c10::kFloat, c10::kDouble}) {
      EXPECT_THAT(load(dtype), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("index 6291461")));
    }
    values[2 * kColumns + 5] = kept;
  }
}

// 2^31 elements that are one row, over and over.
TEST(WeightLoaderTest, LoadingStopsInTime) {
  constexpr int64_t kRows = int64_t{1} << 19, kColumns = 1 << 12;
  ArchiveTensor huge = Floats({kColumns}, std::vector<float>(kColumns, 1));
  huge.shape = {kRows, kColumns};
  huge.strides = {0, 1};
  const Archive archive({{"w", huge}}, {}, "huge");
  for (const bool transposed : {false, true}) {
    const std::vector<int64_t> shape =
        transposed ? std::vector{kColumns, kRows} : std::vector{kRows, kColumns};
    const WeightPlan plan = {{WeightSpec::kOuter, "w", "w", shape, DrawConstant(0), transposed}};
    const testing::Stopped stopped =
        testing::CancelAfter(absl::Milliseconds(100), [&](const StopToken& stop) {
          return LoadWeights(archive, plan, {}, {}, {.dtype = c10::kBFloat16, .stop = &stop}).status();
        });
    EXPECT_THAT(stopped.status, StatusIs(absl::StatusCode::kCancelled, ::testing::_));
    EXPECT_LT(stopped.took, testing::kStopLimit);
  }
}

TEST(InitializeWeightsTest, DrawingStopsInTime) {
  const WeightPlan plan = {{0, "w", "w", {int64_t{1} << 30}, DrawNormal(1)}};
  const testing::Stopped stopped = testing::CancelAfter(absl::Milliseconds(100), [&](const StopToken& stop) {
    return InitializeWeights(plan, {}, 1, {.stop = &stop}).status();
  });
  EXPECT_THAT(stopped.status, StatusIs(absl::StatusCode::kCancelled, ::testing::_));
  EXPECT_LT(stopped.took, testing::kStopLimit);
}

TEST(InitializeWeightsTest, ATensorDependsOnSeedLayerAndNameAlone) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ModelWeights whole, InitializeWeights(SmallPlan(), {}, 5, {}));
  const WeightPlan reversed = {SmallPlan()[2], SmallPlan()[0]};
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ModelWeights part, InitializeWeights(reversed, {}, 5, {}));
  EXPECT_TRUE(at::equal(whole.outer["embedding"], part.outer["embedding"]));
  EXPECT_TRUE(at::equal(whole.layers[0]["w"], part.layers[0]["w"]));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ModelWeights other, InitializeWeights(SmallPlan(), {}, 6, {}));
  EXPECT_FALSE(at::equal(whole.outer["embedding"], other.outer["embedding"]));
}

TEST(InitializeWeightsTest, AnAbsurdSizeIsRefusedBeforeItIsAllocated) {
  const WeightPlan plan = {{0, "w", "w", {int64_t{1} << 40, int64_t{1} << 40}, DrawConstant(0)}};
  const Settings settings =
      *Settings::Parse(R"({"d_model": 1099511627776, "depth": 1, "ssm": {"expand": 1e6}})", "config.json");
  EXPECT_THAT(InitializeWeights(plan, settings, 1, {}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("2^33"), HasSubstr("d_model 1099511627776, ssm.expand 1000000.0"))));
}

}  // namespace
}  // namespace eigsvc
