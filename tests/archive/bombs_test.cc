// Small files that ask for much: each is refused, within a tenth of a second and 64 MiB.
#include <malloc.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "tests/archive/fixtures.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::testing {
namespace {

std::string Repeated(const std::string& part, int count) {
  std::string all;
  all.reserve(part.size() * count);
  for (int i = 0; i < count; ++i) all += part;
  return all;
}

// entry(0), entry(1), ... with commas.
template <typename Entry>
std::string Listed(int count, const Entry& entry) {
  std::string all;
  for (int i = 0; i < count; ++i) absl::StrAppend(&all, i == 0 ? "" : ",", entry(i));
  return all;
}

std::string Entry(const std::string& name, const std::string& shape, const std::string& offsets) {
  return absl::StrCat("\"", name, R"(":{"dtype":"F32","shape":[)", shape, R"(],"data_offsets":[)", offsets,
                      "]}");
}
std::string Header(const std::string& entries, const std::string& data = "") {
  return MakeSafetensors(absl::StrCat("{", entries, "}"), data);
}

struct Bomb {
  const char* name;
  std::string file;
};

std::vector<Bomb> OfSafetensors() {
  constexpr int kMany = 40'000;
  return {
      {"a header of 2^63 bytes", std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10)},
      {"a header of 17 MiB that is not there", std::string("\0\0\x10\x01\0\0\0\0{\"", 10)},
      {"a shape whose product overflows", Header(Entry("a", "1099511627776,1099511627776", "0,4"), "four")},
      {"a million dimensions", Header(Entry("a", Repeated("1,", 999'999) + "1", "0,4"), "four")},
      {"a million digits", Header(Entry("a", std::string(1'000'000, '9'), "0,4"), "four")},
      {"a million brackets", MakeSafetensors("{\"a\":" + std::string(1'000'000, '['), "")},
      {"a million braces", MakeSafetensors(Repeated("{\"a\":", 200'000), "")},
      {"a name of two million letters", Header(Entry(std::string(2'000'000, 'n'), "1", "0,4"), "four")},
      {"sixty-six thousand tensors",
       Header(Listed(66'000, [](int i) { return Entry(absl::StrCat("t", i), "0", "0,0"); }))},
      {"one name many times", Header(Listed(kMany, [](int) { return Entry("a", "0", "0,0"); }))},
      {"many tensors of the same bytes",
       Header(Listed(kMany, [](int i) { return Entry(absl::StrCat("t", i), "1", "0,4"); }), "four")},
      {"metadata that is no text",
       Header("\"__metadata__\":{\"k\":\"" + std::string(2'000'000, 'x') + "\x01\"}")},
      {"escapes", Header("\"__metadata__\":{\"k\":\"" + Repeated("\\ud800", 300'000) + "\"}")},
  };
}

std::string Tensors(int count) {
  PickleProgram program;
  program.Dict();
  for (int i = 0; i < count; ++i) {
    program.Text(absl::StrCat("t", i)).Tensor({.count = 1, .shape = {1}, .strides = {1}}).SetItem();
  }
  return program.Finish();
}

std::vector<Bomb> OfPickles() {
  std::string puts = "N",
              calls = PickleProgram().Raw("(").Raw(std::string(200'000, 'N')).Raw("tq\x01q\x02").Finish(),
              copies = "}(" + std::string(100'000, 'N') + "uq\x01(";
  for (uint32_t i = 0; i < 400'000; ++i) puts += "r" + BytesOf<uint32_t>({i});
  calls.pop_back();
  calls += "(" + Repeated("cpathlib\nPath\nh\x01R", 100'000) + "\x86.";
  copies += Repeated("ccollections\nOrderedDict\nh\x01\x85R", 40'000);
  const std::vector<std::pair<const char*, std::string>> programs = {
      {"dictionaries", std::string(2'000'000, '}')},
      {"lists", std::string(2'000'000, ']')},
      {"marks", std::string(2'000'000, '(')},
      {"memoised values", puts},
      {"calls of one long tuple", calls},
      {"copies of one long dictionary", copies},
      {"a list in itself", Repeated("]q\x01h\x01"
                                    "a",
                                    200'000)},
      {"text of 2^62 bytes", PickleProgram(4).Raw(std::string("\x8d\0\0\0\0\0\0\0\x40", 9)).Finish()},
      {"a number of 2^31 bytes", PickleProgram().Raw(std::string("\x8b\xff\xff\xff\x7f", 5)).Finish()},
  };
  std::vector<Bomb> bombs;
  for (const auto& [name, program] : programs) bombs.push_back({name, MakeTorchFile(program)});
  const std::string four(4, '\0');
  bombs.push_back({"a tensor of 2^62 elements on four bytes",
                   MakeTorchFile(PickleProgram()
                                     .Dict()
                                     .Text("a")
                                     .Tensor({.count = 1, .shape = {int64_t{1} << 62}, .strides = {1}})
                                     .SetItem()
                                     .Finish(),
                                 {{"0", four}})});
  bombs.push_back(
      {"sixty-six thousand tensors of one storage", MakeTorchFile(Tensors(66'000), {{"0", four}})});
  return bombs;
}

std::vector<Bomb> OfZips() {
  std::vector<ZipRecord> many;
  for (int i = 0; i < 65'535; ++i) many.push_back({absl::StrCat("a/", i), ""});
  return {{"a compressed record", MakeZip({{.name = "a/data.pkl", .bytes = "bytes", .method = 8}})},
          {"as many records as a directory counts", MakeZip(many)}};
}

// In KiB, from the kernel's own account; reset before it is used.
int64_t PeakMemory() {
  const std::string status = ReadAll("/proc/self/status");
  return std::stoll(status.substr(status.find("VmHWM:") + 6));
}

constexpr absl::Duration kSoon = absl::Milliseconds(100);

TEST(BombsTest, EachIsRefusedSoonAndInLittleMemory) {
  std::vector<Bomb> bombs = OfSafetensors();
  for (std::vector<Bomb> more : {OfPickles(), OfZips()}) {
    for (Bomb& bomb : more) bombs.push_back(std::move(bomb));
  }
  EXPECT_GE(bombs.size(), 25u);
  const TemporaryFolder folder;
  for (Bomb& bomb : bombs) {
    SCOPED_TRACE(bomb.name);
    folder.Write("bomb", bomb.file);
    std::string().swap(bomb.file);
    malloc_trim(0);  // so that memory freed earlier is not used again unseen
    std::ofstream clear("/proc/self/clear_refs");
    clear << "5" << std::flush;
    [[maybe_unused]] const int64_t before = PeakMemory();
    absl::Duration shortest = absl::InfiniteDuration();
    // What else runs here takes time as well: the shortest of five, or of more where these are too long.
    for (int i = 0; i < 5 || (shortest > kSoon && i < 50); ++i) {
      const absl::Time start = absl::Now();
      EXPECT_FALSE(Archive::Open(folder.Path("bomb")).ok());
      shortest = std::min(shortest, absl::Now() - start);
    }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    EXPECT_LE(shortest, kSoon);
    if (clear) {
      EXPECT_LE(PeakMemory() - before, 64 * 1024);
    }
#endif
    std::filesystem::remove(folder.Path("bomb"));
  }
}

}  // namespace
}  // namespace eigsvc::testing
