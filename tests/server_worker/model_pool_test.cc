#include "server/worker/model_pool.h"

#include <filesystem>
#include <fstream>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server_worker/worker_fixture.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::CheckpointAt;
using ::eigsvc::testing::SaveMamba2;
using ::eigsvc::testing::StatusIs;
using ::eigsvc::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr int64_t kPlenty = int64_t{1} << 30;

class ModelPoolTest : public ::testing::Test {
 protected:
  ModelPoolTest() {
    SaveMamba2(dir_.Path("a.safetensors"), 1);
    SaveMamba2(dir_.Path("b.safetensors"), 2);
    SaveMamba2(dir_.Path("c.safetensors"), 3);
    absl::SleepFor(absl::Milliseconds(120));  // until Fingerprint vouches for them
  }
  worker::v1::ResolvedCheckpoint At(const std::string& name) { return CheckpointAt(dir_.Path(name)); }
  static ModelPool MakePool(int64_t budget) { return ModelPool({c10::Device(c10::kCPU)}, "cpu", budget); }
  static std::vector<std::string> Ids(const ModelPool& pool) {
    std::vector<std::string> ids;
    for (const v1::LoadedModel& model : pool.List()) ids.push_back(model.model_id());
    return ids;
  }

  TempDir dir_;
  StopToken stop_;
};

TEST_F(ModelPoolTest, TheSameBytesAndSettingsAreLoadedOnce) {
  ModelPool pool = MakePool(kPlenty);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto first, pool.Acquire(At("a.safetensors"), "", stop_));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto again, pool.Acquire(At("a.safetensors"), "float32", stop_));
  EXPECT_EQ(first, again);
  std::filesystem::copy_file(dir_.Path("a.safetensors"), dir_.Path("copy.safetensors"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto copy, pool.Acquire(At("copy.safetensors"), "", stop_));
  EXPECT_EQ(first, copy);
  EXPECT_THAT(pool.List(), SizeIs(1));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto other_dtype, pool.Acquire(At("a.safetensors"), "float64", stop_));
  EXPECT_NE(first, other_dtype);
  EXPECT_EQ(other_dtype->description.dtype(), "float64");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto other_model, pool.Acquire(At("b.safetensors"), "", stop_));
  EXPECT_NE(first, other_model);
  EXPECT_THAT(pool.List(), SizeIs(3));
}

// A hit neither reads nor hashes: the archive would refuse what lies there now.
TEST_F(ModelPoolTest, AnAddressedCopyIsNotReadAgain) {
  ModelPool pool = MakePool(kPlenty);
  worker::v1::ResolvedCheckpoint checkpoint = At("a.safetensors");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto plain, pool.Acquire(checkpoint, "", stop_));
  checkpoint.set_immutable(true);
  checkpoint.mutable_ref()->set_sha256(plain->description.checkpoint_sha256());
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto first, pool.Acquire(checkpoint, "", stop_));
  std::filesystem::remove(dir_.Path("a.safetensors"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto again, pool.Acquire(checkpoint, "", stop_));
  EXPECT_EQ(first, again);
}

TEST_F(ModelPoolTest, AChangedFileIsLoadedAnew) {
  ModelPool pool = MakePool(kPlenty);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto first, pool.Acquire(At("a.safetensors"), "", stop_));
  SaveMamba2(dir_.Path("a.safetensors"), 99);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto second, pool.Acquire(At("a.safetensors"), "", stop_));
  EXPECT_NE(first, second);
  EXPECT_NE(first->description.checkpoint_sha256(), second->description.checkpoint_sha256());
}

TEST_F(ModelPoolTest, TheLeastRecentlyUsedGoesFirst) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto probe, MakePool(kPlenty).Acquire(At("a.safetensors"), "", stop_));
  ModelPool pool = MakePool(2 * probe->size_bytes);
  std::string a, b, c;
  {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, pool.Acquire(At("a.safetensors"), "", stop_));
    a = model->id;
  }
  {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, pool.Acquire(At("b.safetensors"), "", stop_));
    b = model->id;
  }
  EXPECT_EQ(Ids(pool), (std::vector{b, a}));
  EIGSVC_ASSERT_OK(pool.Acquire(At("a.safetensors"), "", stop_));
  EXPECT_EQ(Ids(pool), (std::vector{a, b}));
  {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, pool.Acquire(At("c.safetensors"), "", stop_));
    c = model->id;
  }
  EXPECT_EQ(Ids(pool), (std::vector{c, a}));
}

TEST_F(ModelPoolTest, AModelInUseIsNotEvicted) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto probe, MakePool(kPlenty).Acquire(At("a.safetensors"), "", stop_));
  ModelPool pool = MakePool(probe->size_bytes);
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto held, pool.Acquire(At("a.safetensors"), "", stop_));
  EXPECT_THAT(pool.Acquire(At("b.safetensors"), "", stop_),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("--model-memory-bytes"), HasSubstr("jobs hold"))));
  EXPECT_EQ(Ids(pool), std::vector{held->id});
  // Unloading takes it off the list but not out of memory while it is held.
  EIGSVC_ASSERT_OK(pool.Unload(held->id));
  EXPECT_THAT(pool.List(), SizeIs(0));
  EXPECT_THAT(pool.Acquire(At("b.safetensors"), "", stop_),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("")));
  held.reset();
  EIGSVC_EXPECT_OK(pool.Acquire(At("b.safetensors"), "", stop_));
}

TEST_F(ModelPoolTest, AModelLargerThanTheBudgetIsRefused) {
  ModelPool pool = MakePool(1000);
  EXPECT_THAT(pool.Acquire(At("a.safetensors"), "", stop_),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("smaller dtype")));
}

TEST_F(ModelPoolTest, ATwinHasTheArchitectureAndTheSeedButNotTheWeights) {
  ModelPool pool = MakePool(kPlenty);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto trained, pool.Acquire(At("a.safetensors"), "", stop_));
  worker::v1::ResolvedCheckpoint checkpoint = At("a.safetensors");
  checkpoint.mutable_ref()->set_twin_seed(5);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto twin, pool.Acquire(checkpoint, "", stop_));
  EXPECT_NE(trained, twin);
  EXPECT_EQ(twin->description.initial_seed(), 5u);
  EXPECT_FALSE(trained->description.has_initial_seed());
  EXPECT_EQ(twin->description.checkpoint_sha256(), trained->description.checkpoint_sha256());
  EXPECT_EQ(twin->description.settings_json(), trained->description.settings_json());
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto again, pool.Acquire(checkpoint, "", stop_));
  EXPECT_EQ(twin, again);
  // The twin of seed 2 has the weights that seed 2 gave b: same initialiser, same settings.
  checkpoint.mutable_ref()->set_twin_seed(2);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto like_b, pool.Acquire(checkpoint, "", stop_));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto b, pool.Acquire(At("b.safetensors"), "", stop_));
  const auto distinct_twin = like_b->model->weights().Distinct(), distinct_b = b->model->weights().Distinct();
  ASSERT_EQ(distinct_twin.size(), distinct_b.size());
  for (size_t i = 0; i < distinct_b.size(); ++i) EXPECT_TRUE(distinct_twin[i].equal(distinct_b[i])) << i;
}

// Trained and twin together exceed the budget: the trained one makes room.
TEST_F(ModelPoolTest, ATwinFitsWhereOneModelFits) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto probe, MakePool(kPlenty).Acquire(At("a.safetensors"), "", stop_));
  ModelPool pool = MakePool(probe->size_bytes);
  worker::v1::ResolvedCheckpoint checkpoint = At("a.safetensors");
  checkpoint.mutable_ref()->set_twin_seed(5);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto twin, pool.Acquire(checkpoint, "", stop_));
  EXPECT_EQ(Ids(pool), std::vector{twin->id});
}

TEST_F(ModelPoolTest, AnInitializerNeedsNoFile) {
  ModelPool pool = MakePool(kPlenty);
  worker::v1::ResolvedCheckpoint checkpoint;
  checkpoint.mutable_ref()->mutable_initializer()->set_family("mamba2");
  checkpoint.mutable_ref()->mutable_initializer()->set_seed(3);
  checkpoint.mutable_ref()->set_settings_json(R"({"vocab_size": 96})");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, pool.Acquire(checkpoint, "", stop_));
  EXPECT_EQ(model->description.vocab_size(), 96);
  EXPECT_EQ(model->description.initial_seed(), 3u);
  EXPECT_EQ(model->description.checkpoint_sha256(), "");
  checkpoint.mutable_ref()->mutable_initializer()->set_family("mamba3");
  EXPECT_THAT(pool.Acquire(checkpoint, "", stop_),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("mamba2")));
}

TEST_F(ModelPoolTest, AnAbsurdInitializerIsRefusedBeforeItTakesMemory) {
  ModelPool pool = MakePool(kPlenty);
  worker::v1::ResolvedCheckpoint checkpoint;
  checkpoint.mutable_ref()->mutable_initializer()->set_family("mamba2");
  checkpoint.mutable_ref()->set_settings_json(R"({"vocab_size": 16777216, "d_model": 128})");  // 8 GiB
  EXPECT_THAT(pool.Acquire(checkpoint, "", stop_),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("--model-memory-bytes")));
  checkpoint.mutable_ref()->set_settings_json(R"({"vocab_size": 16777216, "d_model": 1048576})");
  EXPECT_THAT(pool.Acquire(checkpoint, "", stop_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("parameters")));
}

TEST_F(ModelPoolTest, BadRequestsAreNamed) {
  ModelPool pool = MakePool(kPlenty);
  EXPECT_THAT(pool.Acquire({}, "", stop_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no source")));
  EXPECT_THAT(pool.Acquire(At("a.safetensors"), "int8", stop_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("int8")));
  EXPECT_THAT(pool.Acquire(At("absent"), "", stop_),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent")));
  worker::v1::ResolvedCheckpoint checkpoint = At("a.safetensors");
  checkpoint.mutable_ref()->set_settings_json("[1]");
  EXPECT_THAT(pool.Acquire(checkpoint, "", stop_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("settings_json")));
  EXPECT_THAT(pool.Unload("none"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
  EXPECT_THAT(pool.List(), SizeIs(0));
}

TEST_F(ModelPoolTest, SizesAreThoseOfTheWeights) {
  ModelPool pool = MakePool(kPlenty);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, pool.Acquire(At("a.safetensors"), "", stop_));
  EXPECT_EQ(model->size_bytes, 4 * model->description.parameters());
  EXPECT_EQ(pool.List()[0].size_bytes(), model->size_bytes);
  EXPECT_GT(pool.List()[0].last_use_time().seconds(), 0);
}

}  // namespace
}  // namespace eigsvc
