// IMDb against the real reviews, read a second time by plain means, in folders and packed.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/base/utf8.h"
#include "models/tasks/task.h"
#include "tests/tasks/archives.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

namespace fs = std::filesystem;
using ::absl::StatusCode;
using ::eigsvc::testing::Files;
using ::eigsvc::testing::Pack;
using ::eigsvc::testing::Packing;
using ::eigsvc::testing::StatusIs;
using ::eigsvc::testing::WriteFile;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<std::shared_ptr<const Task>> Make(const std::string& json, const std::string& path,
                                                 uint64_t seed = 1, bool train = true, bool test = true) {
  return MakeTask("imdb", {.parameters = Settings::Parse(json, "test").value(),
                           .seed = seed,
                           .data_path = path,
                           .train = train,
                           .test = test});
}

std::string TempDir(const std::string& name) {
  const std::string path =
      absl::StrCat(::testing::TempDir(), "imdb_",
                   ::testing::UnitTest::GetInstance()->current_test_info()->name(), "_", name);
  fs::remove_all(path);
  return path;
}

std::string WriteTree(const std::string& name, const Files& files) {
  const std::string root = TempDir(name);
  for (const auto& [file, contents] : files) {
    fs::create_directories(fs::path(root) / fs::path(file).parent_path());
    WriteFile(absl::StrCat(root, "/", file), contents);
  }
  return root;
}

// Few letters, so that every rule shows: in train a 4, b 3, c 3, d 2, e-acute 2, f 1.
const Files& Tiny() {
  static const auto& files = *new Files{{"aclImdb/train/neg/0_1.txt", "aabc"},
                                        {"aclImdb/train/neg/1_2.txt", "abd\xc3\xa9"},
                                        {"aclImdb/train/pos/0_9.txt", "acdb"},
                                        {"aclImdb/train/pos/1_8.txt",
                                         "c\xc3\xa9"
                                         "f"},
                                        {"aclImdb/test/neg/0_3.txt", "fa\xc3\xa9"},
                                        {"aclImdb/test/pos/5_7.txt", "bad"},
                                        {"aclImdb/train/unsup/0_0.txt", "zzzz"},
                                        {"aclImdb/train/pos/._1_8.txt", "\xff"},
                                        {"aclImdb/imdb.vocab", "the"}};
  return files;
}

std::map<std::string, int64_t> RowsOf(const Task& task, Split split, bool with_target = true) {
  std::map<std::string, int64_t> rows;  // the ids as text -> target
  const Batch batch = task.Draw(split, 0, task.example_count(split)).value();
  for (int64_t row = 0; row < batch.rows; ++row) {
    std::string key;
    for (int64_t i = 0; i < batch.lengths[row]; ++i)
      absl::StrAppend(&key, batch.tokens[row * batch.steps + i], " ");
    rows[key] = with_target ? batch.targets[row] : 0;
  }
  return rows;
}

TEST(ImdbTest, CharactersByFallingFrequencyThenCodePoint) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task, Make(R"({"min_freq": 2})", WriteTree("t", Tiny())));
  EXPECT_EQ(task->parameters().Text("vocabulary").value(), "abcd\xc3\xa9");  // b and c both three times
  EXPECT_EQ(task->signature().vocab_size, 8);
  EXPECT_EQ(task->signature().classes, 2);
  EXPECT_TRUE(task->signature().per_sequence);
  EXPECT_EQ(task->example_count(Split::kTrain), 4);
  // a 3, b 4, c 5, d 6, e-acute 7; f is <unk> 1; <eos> 2.
  EXPECT_EQ(RowsOf(*task, Split::kTest), (std::map<std::string, int64_t>{{"1 3 7 2 ", 0}, {"4 3 6 2 ", 1}}));
  EXPECT_EQ(RowsOf(*task, Split::kTrain),
            (std::map<std::string, int64_t>{
                {"3 3 4 5 2 ", 0}, {"3 4 6 7 2 ", 0}, {"3 5 6 4 2 ", 1}, {"5 7 1 2 ", 1}}));
}

TEST(ImdbTest, TheVocabularyIsCountedOverWhatIsKept) {
  // Two characters a review: a 3 (aa, ab, ac, c e), b 1, c 2, e-acute 1.
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task,
                              Make(R"({"min_freq": 1, "max_tokens": 3})", WriteTree("t", Tiny())));
  EXPECT_EQ(task->parameters().Text("vocabulary").value(), "acb\xc3\xa9");
  EXPECT_EQ(RowsOf(*task, Split::kTest), (std::map<std::string, int64_t>{{"1 3 2 ", 0}, {"5 3 2 ", 1}}));
}

TEST(ImdbTest, BytesAreThemselves) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task, Make(R"({"level": "byte"})", WriteTree("t", Tiny())));
  EXPECT_EQ(task->signature().vocab_size, 259);
  EXPECT_EQ(RowsOf(*task, Split::kTest),
            (std::map<std::string, int64_t>{{"105 100 198 172 2 ", 0}, {"101 100 103 2 ", 1}}));
}

TEST(ImdbTest, ArchivesGiveWhatFoldersGive) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto folder,
                              Make(R"({"min_freq": 1})", WriteTree("t", Tiny()) + "/aclImdb"));
  Files backwards = Tiny();
  std::reverse(backwards.begin(), backwards.end());
  for (const Packing packing : {Packing::kTarGz, Packing::kTar, Packing::kZip}) {
    const std::string path = WriteFile(TempDir("packed"), Pack(packing, backwards));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto packed, Make(R"({"min_freq": 1})", path));
    EXPECT_EQ(packed->parameters().ToJson(), folder->parameters().ToJson());
    for (const Split split : {Split::kTrain, Split::kTest}) {
      const int64_t count = folder->example_count(split);
      ASSERT_EQ(packed->example_count(split), count);
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch a, folder->Draw(split, 0, count));
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch b, packed->Draw(split, 0, count));
      EXPECT_EQ(a.tokens, b.tokens);
      EXPECT_EQ(a.targets, b.targets);
    }
  }
}

TEST(ImdbTest, AnArchiveOfThePublishedNameMustBeThePublishedOne) {
  const std::string whole = Pack(Packing::kTarGz, Tiny());
  const std::string folder = TempDir("published");
  fs::create_directories(folder);
  const std::string named = WriteFile(folder + "/aclImdb_v1.tar.gz", whole);
  EXPECT_THAT(Make(R"({"min_freq": 1})", named),
              StatusIs(StatusCode::kDataLoss, AllOf(HasSubstr(named), HasSubstr("the md5 of its"),
                                                    HasSubstr("published 7c2ac02c03563afcf9b574c7e56c153a"),
                                                    HasSubstr("under any other name"))));
  EIGSVC_EXPECT_OK(Make(R"({"min_freq": 1})", WriteFile(folder + "/some-reviews.tar.gz", whole)));
  // Of a damaged one, the place.
  EXPECT_THAT(Make(R"({"min_freq": 1})", WriteFile(named, whole.substr(0, whole.size() / 2))),
              StatusIs(StatusCode::kDataLoss, HasSubstr("damaged near byte")));
}

TEST(ImdbTest, ReadsTheRealReviews) {
  EIGSVC_REQUIRE_SHARED();
  const std::string root = testing::SharedPath("data/aclImdb");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task, Make("{}", root));
  EXPECT_EQ(task->example_count(Split::kTrain), 500);
  EXPECT_EQ(task->example_count(Split::kTest), 1000);
  // The rule of the vocabulary, counted over code points by other means.
  std::map<uint32_t, int64_t> counts;
  std::map<std::string, int64_t> labels;  // text -> class, of both splits
  for (const char* split : {"train", "test"}) {
    for (const char* kind : {"neg", "pos"}) {
      for (const auto& entry : fs::directory_iterator(fs::path(root) / split / kind)) {
        std::stringstream text;
        text << std::ifstream(entry.path(), std::ios::binary).rdbuf();
        const std::string bytes = text.str();
        labels[bytes] = std::string(kind) == "pos";
        if (std::string(split) == "test") continue;
        int kept = 0;
        for (size_t i = 0; i < bytes.size() && kept < 4095; ++kept) {
          const auto lead = static_cast<unsigned char>(bytes[i++]);
          uint32_t point = lead < 0x80   ? lead
                           : lead < 0xE0 ? lead & 0x1F
                           : lead < 0xF0 ? lead & 0x0F
                                         : lead & 7;
          while (i < bytes.size() && (bytes[i] & 0xC0) == 0x80) point = point << 6 | (bytes[i++] & 0x3F);
          ++counts[point];
        }
      }
    }
  }
  ASSERT_GE(labels.size(), 1495u);  // a review or two was sent in twice
  std::vector<std::pair<int64_t, uint32_t>> order;
  for (const auto& [point, count] : counts) {
    if (count >= 15) order.emplace_back(-count, point);
  }
  std::sort(order.begin(), order.end());
  ASSERT_EQ(task->signature().vocab_size, 3 + static_cast<int64_t>(order.size()));
  const std::string vocabulary = task->parameters().Text("vocabulary").value();
  std::vector<std::string> characters;  // by id
  for (absl::string_view rest = vocabulary; !rest.empty(); rest.remove_prefix(characters.back().size())) {
    characters.emplace_back(rest.substr(0, CharacterBytes(rest)));
  }
  ASSERT_EQ(characters.size(), order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    if (order[i].second < 0x80) {
      EXPECT_EQ(characters[i], std::string(1, static_cast<char>(order[i].second))) << i;
    }
  }
  // Every example spells the start of one review, whose folder is its class; <unk> stands for any character.
  std::set<std::string> seen;
  for (const Split split : {Split::kTrain, Split::kTest}) {
    const int64_t count = task->example_count(split);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(split, 0, count));
    EXPECT_LE(batch.steps, 4096);
    int64_t positive_in_first_half = 0;
    for (int64_t row = 0; row < count; ++row) {
      std::string spelt;
      for (int64_t i = 0; i + 1 < batch.lengths[row]; ++i) {
        const int64_t id = batch.tokens[row * batch.steps + i];
        if (id == 1) break;
        ASSERT_GE(id, 3);
        spelt += characters[id - 3];
      }
      ASSERT_EQ(batch.tokens[row * batch.steps + batch.lengths[row] - 1], 2);
      const auto found = labels.lower_bound(spelt);
      ASSERT_NE(found, labels.end()) << spelt.substr(0, 80);
      ASSERT_TRUE(absl::StartsWith(found->first, spelt)) << spelt.substr(0, 80);
      if (spelt.size() > 200) {  // long enough to be one review's
        EXPECT_EQ(batch.targets[row], found->second) << spelt.substr(0, 80);
        seen.insert(found->first);
      }
      positive_in_first_half += row < count / 2 && batch.targets[row] == 1;
    }
    // Mixed: neighbours are of both classes.
    EXPECT_NEAR(static_cast<double>(positive_in_first_half), count / 4.0, count / 16.0);
  }
  EXPECT_GT(seen.size(), 1450u);
}

TEST(ImdbTest, TheOrderIsTheSeeds) {
  EIGSVC_REQUIRE_SHARED();
  const std::string root = testing::SharedPath("data/aclImdb");
  const std::string parameters = R"({"level": "byte", "max_tokens": 200})";
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto a, Make(parameters, root, 1));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto again, Make(parameters, root, 1, /*train=*/false));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto b, Make(parameters, root, 2));
  EXPECT_EQ(again->example_count(Split::kTrain), 0);
  EXPECT_EQ(a->Draw(Split::kTest, 10, 20)->tokens, again->Draw(Split::kTest, 10, 20)->tokens);
  EXPECT_NE(a->Draw(Split::kTest, 10, 20)->tokens, b->Draw(Split::kTest, 10, 20)->tokens);
  EXPECT_EQ(RowsOf(*a, Split::kTest), RowsOf(*b, Split::kTest));  // the same reviews
}

TEST(ImdbTest, BadDataIsNamed) {
  Files bad_utf8 = Tiny();
  bad_utf8[1].second =
      "ab\xff"
      "d";
  const std::string tree = WriteTree("utf8", bad_utf8);
  EXPECT_THAT(Make("{}", tree), StatusIs(StatusCode::kInvalidArgument,
                                         AllOf(HasSubstr("train/neg/1_2.txt, byte 2: 0xff is no UTF-8"),
                                               HasSubstr("level=byte"))));
  EIGSVC_EXPECT_OK(Make(R"({"level": "byte"})", tree));
  Files empty = Tiny();
  empty[2].second = "";
  EXPECT_THAT(
      Make("{}", WriteTree("empty", empty)),
      StatusIs(StatusCode::kInvalidArgument, AllOf(HasSubstr("train/pos/0_9.txt"), HasSubstr("is empty"))));
  const Files no_test(Tiny().begin(), Tiny().begin() + 4);
  EXPECT_THAT(Make(R"({"min_freq": 1})", WriteTree("no_test", no_test)),
              StatusIs(StatusCode::kNotFound,
                       AllOf(HasSubstr("test/pos and test/neg"), HasSubstr("eigsvc tasks describe imdb"))));
  const Files no_train(Tiny().begin() + 4, Tiny().begin() + 6);
  const std::string test_only = WriteTree("no_train", no_train);
  EXPECT_THAT(Make("{}", test_only), StatusIs(StatusCode::kNotFound, HasSubstr("train/pos and train/neg")));
  for (const int left_out : {0, 1}) {  // one of the two classes is missing
    Files one_class = Tiny();
    one_class.erase(one_class.begin() + 4 + left_out);
    EXPECT_THAT(Make(R"({"min_freq": 1})", WriteTree("one_class", one_class)),
                StatusIs(StatusCode::kNotFound, HasSubstr("test/pos and test/neg")));
  }
  // With a recorded vocabulary a test needs no train reviews.
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto task,
                              Make(R"({"vocabulary": "ab"})", test_only, 1, /*train=*/false));
  EXPECT_EQ(RowsOf(*task, Split::kTest), (std::map<std::string, int64_t>{{"1 3 1 2 ", 0}, {"4 3 1 2 ", 1}}));
  EXPECT_THAT(Make("{}", WriteTree("tiny", Tiny())),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("lower min_freq")));
  EXPECT_THAT(Make(R"({"vocabulary": "aba"})", test_only, 1, false),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("\"a\" twice")));
  EXPECT_THAT(Make(R"({"level": "word"})", test_only),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("known: character, byte")));
  EXPECT_THAT(Make("{}", WriteFile(TempDir("file"), "hello")),
              StatusIs(StatusCode::kNotFound, HasSubstr("train/pos")));
  std::string cut = Pack(Packing::kTarGz, Tiny());
  cut.resize(cut.size() / 2);
  EXPECT_THAT(Make("{}", WriteFile(TempDir("cut"), cut)),
              StatusIs(StatusCode::kDataLoss, HasSubstr("fetch it again")));
}

}  // namespace
}  // namespace eigsvc
