// Real checkpoints made by others: RWKV's .pth files and a Llama converted from llama2.c.
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "models/archive/detect.h"
#include "tests/archive/fixtures.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::testing {
namespace {

TEST(SharedCheckpointsTest, RwkvFilesOpenAndAgreeWithTheirConversion) {
  EIGSVC_REQUIRE_SHARED();
  const std::string folder = SharedPath("data/checkpoints/rwkv7_reverse/");
  for (const char* const file : {"251024_rosaQKV_L2_digit20.pth", "251105_reverse_L2.pth",
                                 "260123_reverse_L2.pth", "260123_reverse_L2_only_rwkv7.pth"}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(folder + file));
    EXPECT_EQ(archive.tensors().size(), 99) << file;
    EXPECT_EQ(archive.format(), "torch-zip");
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Detection detection, Detect(archive, {}));
    EXPECT_EQ(detection.family, "rwkv7") << file;
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive original,
                              Archive::Open(folder + "260123_reverse_L2_only_rwkv7.pth"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive converted,
                              Archive::Open(folder + "rwkv7_reverse_L2.safetensors"));
  int compared = 0;
  for (const auto& [key, tensor] : converted.tensors()) {
    const auto twin = original.tensors().find(key);
    if (twin == original.tensors().end()) continue;
    ++compared;
    EXPECT_EQ(tensor.shape, twin->second.shape) << key;
    EXPECT_EQ(Values(tensor), Values(twin->second)) << key;
  }
  EXPECT_GE(compared, 70);
}

TEST(SharedCheckpointsTest, StoriesIsMetasLlama) {
  EIGSVC_REQUIRE_SHARED();
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const Archive archive,
      Archive::Open(SharedPath("data/checkpoints/stories260K/stories260K.safetensors")));
  EXPECT_EQ(archive.ParameterCount(), 260032);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Detection detection, Detect(archive, {}));
  EXPECT_EQ(detection.family, "llama");
  EXPECT_EQ(detection.layout, "meta");
  EXPECT_EQ(detection.layers, 5);
  EXPECT_EQ(detection.settings.Int("n_kv_heads").value(), 4);  // lifted from the metadata's config
}

}  // namespace
}  // namespace eigsvc::testing
