#include "server/worker/fingerprint.h"

#include <fstream>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/server_worker/worker_fixture.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::TempDir;

void Write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }
void Settle() { absl::SleepFor(absl::Milliseconds(120)); }

TEST(FingerprintTest, IsTheSameUntilTheFileChanges) {
  TempDir dir;
  const std::string path = dir.Path("m.safetensors");
  Write(path, "one");
  Settle();
  const std::string before = Fingerprint(path);
  ASSERT_FALSE(before.empty());
  EXPECT_EQ(Fingerprint(path), before);
  Write(path, "two");  // the same size
  Settle();
  EXPECT_FALSE(Fingerprint(path).empty());
  EXPECT_NE(Fingerprint(path), before);
}

TEST(FingerprintTest, SeesTheConfigBesideAFileAndNothingElse) {
  TempDir dir;
  Write(dir.Path("m.safetensors"), "one");
  Settle();
  const std::string before = Fingerprint(dir.Path("m.safetensors"));
  Write(dir.Path("other"), "{}");
  EXPECT_EQ(Fingerprint(dir.Path("m.safetensors")), before);
  Write(dir.Path("config.json"), "{}");
  Settle();
  EXPECT_NE(Fingerprint(dir.Path("m.safetensors")), before);
}

TEST(FingerprintTest, OfADirectorySeesEveryFile) {
  TempDir dir;
  Write(dir.Path("a"), "1");
  Settle();
  const std::string before = Fingerprint(dir.Path(""));
  ASSERT_FALSE(before.empty());
  Write(dir.Path("b"), "2");
  Settle();
  EXPECT_NE(Fingerprint(dir.Path("")), before);
}

// Two changes within one tick of the file system's clock would look the same.
TEST(FingerprintTest, DoesNotVouchForAFreshFile) {
  TempDir dir;
  Write(dir.Path("m"), "one");
  EXPECT_EQ(Fingerprint(dir.Path("m")), "");
}

TEST(FingerprintTest, OfNothingVouchesForNothing) {
  TempDir dir;
  EXPECT_EQ(Fingerprint(dir.Path("absent")), "");
}

}  // namespace
}  // namespace eigsvc
