// Files cut off at every byte and with every single bit flipped: always an Archive or a Status, never a wrong
// value that a checksum could have shown. Run under AddressSanitizer by `make test-full`.
#include <malloc.h>

#include <fstream>
#include <map>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/contents.h"
#include "models/archive/detect.h"
#include "models/archive/safetensors.h"
#include "models/base/status_macros.h"
#include "tests/archive/fixtures.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::testing {
namespace {

using Tensors = absl::btree_map<std::string, ArchiveTensor>;

std::string SmallTorchFile() {
  const std::string program = PickleProgram()
                                  .Dict()
                                  .Text("config")
                                  .Dict()
                                  .Text("dim")
                                  .Int(2)
                                  .SetItem()
                                  .SetItem()
                                  .Text("a")
                                  .Tensor({.count = 6, .shape = {3, 2}, .strides = {1, 3}})
                                  .SetItem()
                                  .Text("b")
                                  .Tensor({.storage_type = "HalfStorage",
                                           .key = "1",
                                           .count = 2,
                                           .offset = 1,
                                           .shape = {},
                                           .strides = {}})
                                  .SetItem()
                                  .Finish();
  return MakeTorchFile(program,
                       {{"0", BytesOf<float>({0, 1, 2, 3, 4, 5})}, {"1", BytesOf<uint16_t>({0, 0x3c00})}});
}

std::string SmallSafetensors() {
  return MakeSafetensors(
      R"({"__metadata__":{"config":"{\"dim\":2}"},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}})",
      std::string(10, '\x3f'));
}

std::map<std::string, std::vector<double>> AllValues(const Tensors& tensors) {
  std::map<std::string, std::vector<double>> values;
  for (const auto& [key, tensor] : tensors) values[key] = Values(tensor);
  return values;
}

TEST(DamageTest, TruncationAtEveryByteIsReported) {
  for (const std::string& whole : {SmallTorchFile(), SmallSafetensors()}) {
    const TemporaryFolder folder;
    EIGSVC_ASSERT_OK(Archive::Open(folder.Write("whole", whole)));
    for (size_t size = 0; size < whole.size(); ++size) {
      const absl::Status status = Archive::Open(folder.Write("cut", whole.substr(0, size))).status();
      ASSERT_FALSE(status.ok()) << size;
      ASSERT_NE(status.code(), absl::StatusCode::kInternal) << size;
      ASSERT_FALSE(status.message().empty());
    }
  }
}

TEST(DamageTest, NoFlippedBitOfATorchFileChangesAValueUnnoticed) {
  const std::string whole = SmallTorchFile();
  const auto values = [](const std::string& file) -> absl::StatusOr<decltype(AllValues({}))> {
    EIGSVC_ASSIGN_OR_RETURN(const FileContents contents,
                            ReadContents(AsBytes(file), "file", static_cast<int64_t>(file.size())));
    return AllValues(TensorsIn(contents, {AsBytes(file), nullptr, ""}));
  };
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto expected, values(whole));
  ASSERT_EQ(expected.at("a"), (std::vector<double>{0, 3, 1, 4, 2, 5}));
  int reported = 0;
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    const auto found = values(damaged);
    if (!found.ok()) {
      ++reported;
      continue;
    }
    ASSERT_EQ(*found, expected) << "bit " << bit;
  }
  EXPECT_GT(reported,
            static_cast<int>(8 * whole.size()) / 2);  // what is not reported lies in unused header fields
}

TEST(DamageTest, EveryFlippedBitOfASafetensorsFileIsSurvived) {
  const std::string whole = SmallSafetensors();
  const TemporaryFolder folder;
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    const absl::StatusOr<Archive> archive = Archive::Open(folder.Write("damaged", damaged));
    if (archive.ok()) {
      ASSERT_FALSE(AllValues(archive->tensors()).empty());
      Detect(*archive, {}).status().IgnoreError();
    } else {
      ASSERT_FALSE(archive.status().message().empty());
    }
  }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// In KiB, from the kernel's own account; reset before it is used.
int64_t PeakMemory() {
  const std::string status = ReadAll("/proc/self/status");
  return std::stoll(status.substr(status.find("VmHWM:") + 6));
}

TEST(DamageTest, BombsStayWithinTheirSizeAnd64MiB) {
  std::vector<std::string> bombs = {
      MakeTorchFile(std::string(30'000'000, '}')),
      MakeTorchFile(std::string(30'000'000, '(')),
      MakeTorchFile(std::string(30'000'000, ']')),
      MakeTorchFile("}q\x01(" +
                    [] {
                      std::string pairs;
                      for (int i = 0; i < 3'000'000; ++i) pairs += "h\x01h\x01";
                      return pairs;
                    }() +
                    "u."),
      MakeSafetensors("{\"a\":{\"shape\":[" + std::string(15'000'000, '1') + "]}}", ""),
      MakeSafetensors("{\"__metadata__\":{\"k\":\"" + std::string(15'000'000, 'x') + "\"}}", ""),
      MakeSafetensors("{\"__metadata__\":{\"k\":\"" + std::string(4'000'000, 'x') + "\x01\"}}", ""),
      MakeSafetensors(
          "{\"__metadata__\":{" +
              [] {
                std::string entries = "\"\":\"\"";
                for (int i = 0; entries.size() < 15'000'000; ++i)
                  entries += ",\"" + std::to_string(i) + "\":\"\"";
                return entries;
              }() +
              "}}",
          ""),
  };
  const TemporaryFolder folder;
  for (std::string& bomb : bombs) {
    const int64_t allowed = static_cast<int64_t>(bomb.size() / 1024) + 64 * 1024;
    folder.Write("bomb", bomb);
    std::string().swap(bomb);
    malloc_trim(0);  // so that memory freed earlier is not used again unseen
    if (std::ofstream clear("/proc/self/clear_refs"); !(clear << "5" << std::flush)) {
      GTEST_SKIP() << "the peak cannot be reset here";
    }
    const int64_t before = PeakMemory();
    const absl::Status status = Archive::Open(folder.Path("bomb")).status();
    EXPECT_FALSE(status.ok());
    EXPECT_LT(PeakMemory() - before, allowed) << status;
  }
}
#endif

}  // namespace
}  // namespace eigsvc::testing
