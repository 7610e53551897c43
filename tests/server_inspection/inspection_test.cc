#include "server/inspection/inspection.h"

#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/safetensors.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::SharedPath;
using ::eigsvc::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<float> kValues = {1, 2, 3, 4, 5, 6};

ArchiveTensor Tensor(std::vector<int64_t> shape, ElementType type = ElementType::kFloat32) {
  ArchiveTensor tensor;
  tensor.type = type;
  tensor.shape = std::move(shape);
  int64_t stride = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    tensor.strides.insert(tensor.strides.begin(), stride);
    stride *= tensor.shape[i];
  }
  tensor.storage = {reinterpret_cast<const std::byte*>(kValues.data()), kValues.size() * sizeof(float)};
  return tensor;
}

TEST(InspectionTest, OfAnUnknownFamilyIsWholeAndNamesTheProblem) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings settings, Settings::Parse(R"({"width": 3})", "test"));
  const Archive archive(
      {{"a.weight", Tensor({2, 3})}, {"b", Tensor({}, ElementType::kInt32)}, {"c", Tensor({4})}}, settings,
      "mine");
  const v1::CheckpointInspection inspection = InspectArchive(archive, Settings());
  EXPECT_EQ(inspection.family(), "");
  EXPECT_NE(inspection.problem(), "");
  EXPECT_EQ(inspection.settings_json(), R"({"width":3})");
  EXPECT_EQ(inspection.parameters(), archive.ParameterCount());
  ASSERT_EQ(inspection.tensors_size(), 3);
  EXPECT_EQ(inspection.tensors(0).name(), "a.weight");
  EXPECT_EQ(inspection.tensors(0).element_type(), "F32");
  EXPECT_THAT(inspection.tensors(0).shape(), ElementsAre(2, 3));
  EXPECT_THAT(inspection.tensors(1).shape(), ElementsAre());
  EXPECT_EQ(inspection.element_types().at("F32"), 2);
  EXPECT_EQ(inspection.element_types().at("I32"), 1);
}

// A relative with a known layout's keys and some of its own shows both sides.
TEST(InspectionTest, OfAContradictionShowsWhichKeysDiffer) {
  absl::btree_map<std::string, ArchiveTensor> tensors = {{"model.embeddings.weight", Tensor({2, 3})}};
  for (const char* key :
       {"attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight", "attn.o_proj.weight",
        "attn.slots.weight", "attn_norm.weight", "mlp_norm.weight", "mlp.gate_proj.weight"}) {
    tensors[std::string("model.layers.0.") + key] = Tensor({2, 3});
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings settings,
                              Settings::Parse(R"({"model_type": "unheard-of"})", "config.json"));
  const v1::CheckpointInspection inspection = InspectArchive(Archive(tensors, settings, "mine"), Settings());
  EXPECT_THAT(inspection.problem(), HasSubstr("model_type \"unheard-of\""));
  EXPECT_EQ(inspection.nearest().layout(), "fla");
  EXPECT_THAT(inspection.nearest().missing_keys(), ElementsAre());
  EXPECT_THAT(inspection.nearest().other_keys(), ElementsAre("model.layers.0.attn.slots.weight"));
}

// A pickle's keys are any bytes; a proto's strings are not, and a peer drops a message that breaks the rule.
TEST(InspectionTest, KeysThatAreNotUtf8SurviveTheWire) {
  const Archive archive({{"bad\xff\xfe key", Tensor({1})}}, Settings(), "mine");
  const v1::CheckpointInspection inspection = InspectArchive(archive, Settings());
  v1::CheckpointInspection received;
  ASSERT_TRUE(received.ParseFromString(inspection.SerializeAsString()));
  EXPECT_EQ(received.tensors(0).name(), "bad\xEF\xBF\xBD\xEF\xBF\xBD key");
}

TEST(InspectionTest, OfStories260KIsALlama) {
  EIGSVC_REQUIRE_SHARED();
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const v1::CheckpointInspection inspection,
      InspectCheckpoint(SharedPath("data/checkpoints/stories260K/stories260K.safetensors"), ""));
  EXPECT_EQ(inspection.problem(), "");
  EXPECT_EQ(inspection.family(), "llama");
  EXPECT_EQ(inspection.layout(), "meta");
  EXPECT_EQ(inspection.layers(), 5);
  EXPECT_EQ(inspection.sha256().size(), 64u);
  EXPECT_GT(inspection.size_bytes(), 0);
}

TEST(InspectionTest, ErrorsAreTheArchives) {
  EXPECT_THAT(InspectCheckpoint("/no/such/file", ""),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("\"file\"")));
  EXPECT_THAT(InspectCheckpoint("/no/such/file", "nope"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("settings_json")));
}

}  // namespace
}  // namespace eigsvc
