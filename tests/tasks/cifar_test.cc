// CIFAR-10 against a reader in numpy (oracle.py), Pillow's grey levels, and hand-made damaged files.
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/sha256.h"
#include "models/tasks/readers/cifar_batch.h"
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
using ::testing::HasSubstr;

absl::StatusOr<std::shared_ptr<const Task>> Make(const std::string& json, const std::string& path, bool train,
                                                 uint64_t seed = 1) {
  return MakeTask(
      "cifar-10",
      {.parameters = Settings::Parse(json, "test").value(), .seed = seed, .data_path = path, .train = train});
}

template <typename T>
std::string Digest(const std::vector<T>& values) {
  return Sha256::Of(
      absl::MakeConstSpan(reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(T)));
}

std::string TempPath(const std::string& name) { return absl::StrCat(::testing::TempDir(), "cifar_", name); }

// `count` images of the binary version whose bytes tell batch, image and place.
std::string Records(int batch, int count) {
  std::string bytes;
  for (int image = 0; image < count; ++image) {
    bytes.push_back(static_cast<char>((batch + image) % 10));
    for (int i = 0; i < 3072; ++i) bytes.push_back(static_cast<char>(batch * 50 + image * 7 + i % 251));
  }
  return bytes;
}

// The same as Python 2's cPickle wrote the published Python version: protocol 2, byte strings.
std::string Python2Pickle(const std::string& records, const std::string& type = "u1", int claimed = -1) {
  const int count = static_cast<int>(records.size() / 3073);
  const auto little = [](uint64_t value, int size) {
    std::string bytes;
    for (int i = 0; i < size; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
    return bytes;
  };
  const auto text = [&](const std::string& value) { return "U" + little(value.size(), 1) + value; };
  std::string labels, pixels;
  for (int image = 0; image < count; ++image) {
    labels += "K" + records.substr(image * 3073, 1);
    pixels += records.substr(image * 3073 + 1, 3072);
  }
  const std::string rows = "M" + little(claimed < 0 ? count : claimed, 2);
  return "\x80\x02}q\x01(" + text("batch_label") + "q\x02" + text("testing batch 1 of 1") + "q\x03" +
         text("labels") + "q\x04]q\x05(" + labels + "e" + text("data") +
         "q\x06"
         "cnumpy.core.multiarray\n_reconstruct\nq\x07" +
         "cnumpy\nndarray\nq\x08" + std::string("K\0\x85", 3) + "q\x09" + text("b") +
         "q\x0a\x87q\x0bRq\x0c(K\x01" + rows + "M" + little(3072, 2) +
         "\x86q\x0d"
         "cnumpy\ndtype\nq\x0e" +
         text(type) + "q\x0f" + std::string("K\0K\x01\x87", 5) + "q\x10Rq\x11(K\x03" + text("|") +
         "q\x12NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff" + std::string("K\0", 2) +
         "tq\x13"
         "b\x89T" +
         little(pixels.size(), 4) + pixels +
         "q\x14tq\x15"
         "b" +
         text("filenames") + "q\x16]q\x17u.";
}

TEST(CifarTest, DecodesTwoThousandImagesToTheBytesOfAnotherReader) {
  EIGSVC_REQUIRE_SHARED();
  const std::string path = testing::SharedPath("data/cifar10/test_batch_subset.bin");
  const std::string out = TempPath("oracle.json");
  const std::string command =
      absl::StrCat("'", EIGSVC_ORACLE_PYTHON, "' '", testing::SourcePath("tests/tasks/oracle.py"),
                   "' cifar '", path, "' ", out);
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  const nlohmann::json expected = nlohmann::json::parse(std::ifstream(out));
  EXPECT_EQ(expected["images"], 2000);

  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto tokens, Make("{}", path, false));
  ASSERT_EQ(tokens->example_count(Split::kTest), 2000);
  EXPECT_EQ(tokens->signature().vocab_size, 256);
  EXPECT_EQ(tokens->signature().channels, 0);
  EXPECT_EQ(tokens->signature().classes, 10);
  EXPECT_TRUE(tokens->signature().per_sequence);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch grey, tokens->Draw(Split::kTest, 0, 2000));
  EXPECT_EQ(grey.steps, 1024);
  EXPECT_EQ(Digest(grey.targets), expected["labels"].get<std::string>());
  EXPECT_EQ(Digest(grey.tokens), expected["grey"].get<std::string>());
  // Pillow 13.0.0: Image.fromarray(rgb).convert("L") of all 2000, as int64.
  EXPECT_EQ(Digest(grey.tokens), "828f31b10f3c182fa905a40ff889e6417af191275682e34094fb4299612eb040");

  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto scalars, Make(R"({"input": "scalar"})", path, false));
  EXPECT_EQ(scalars->signature().vocab_size, 0);
  EXPECT_EQ(scalars->signature().channels, 1);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch values, scalars->Draw(Split::kTest, 0, 2000));
  EXPECT_EQ(values.channels, 1);
  EXPECT_TRUE(values.tokens.empty());
  EXPECT_EQ(Digest(values.values), expected["scalar"].get<std::string>());
  EXPECT_EQ(values.targets, grey.targets);

  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto colours,
                              Make(R"({"input": "scalar", "colour": true})", path, false));
  EXPECT_EQ(colours->signature().channels, 3);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch rgb, colours->Draw(Split::kTest, 0, 2000));
  EXPECT_EQ(rgb.steps, 1024);
  EXPECT_EQ(Digest(rgb.values), expected["colour"].get<std::string>());
}

Files Binary() {
  Files files = {{"cifar-10-batches-bin/test_batch.bin", Records(0, 4)},
                 {"cifar-10-batches-bin/batches.meta.txt", "x"}};
  for (int batch = 5; batch >= 1; --batch) {
    files.push_back({absl::StrCat("cifar-10-batches-bin/data_batch_", batch, ".bin"), Records(batch, 3)});
  }
  return files;
}
Files Pickled() {
  Files files = {{"cifar-10-batches-py/test_batch", Python2Pickle(Records(0, 4))},
                 {"cifar-10-batches-py/batches.meta", "x"}};
  for (int batch = 1; batch <= 5; ++batch) {
    files.push_back(
        {absl::StrCat("cifar-10-batches-py/data_batch_", batch), Python2Pickle(Records(batch, 3))});
  }
  return files;
}

TEST(CifarTest, BothPublishedVersionsGiveTheSamePictures) {
  const std::string folder = TempPath("folder");
  fs::remove_all(folder);
  fs::create_directories(folder);
  for (const auto& [name, bytes] : Pickled()) WriteFile(folder + name.substr(name.find('/')), bytes);
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const auto binary,
      Make("{}", WriteFile(TempPath("bin.tar.gz"), Pack(Packing::kTarGz, Binary())), true));
  ASSERT_EQ(binary->example_count(Split::kTrain), 15);
  ASSERT_EQ(binary->example_count(Split::kTest), 4);
  for (const std::string& path :
       {WriteFile(TempPath("py.tar.gz"), Pack(Packing::kTarGz, Pickled())), folder}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto python, Make("{}", path, true));
    for (const Split split : {Split::kTrain, Split::kTest}) {
      const int64_t count = binary->example_count(split);
      ASSERT_EQ(python->example_count(split), count);
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch a, binary->Draw(split, 0, count));
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch b, python->Draw(split, 0, count));
      EXPECT_EQ(a.tokens, b.tokens);
      EXPECT_EQ(a.targets, b.targets);
    }
  }
  // Test pictures in the file's order; train pictures in the seed's.
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch test, binary->Draw(Split::kTest, 0, 4));
  EXPECT_EQ(test.targets, (std::vector<int64_t>{0, 1, 2, 3}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto other, Make("{}", TempPath("bin.tar.gz"), true, /*seed=*/2));
  EXPECT_NE(other->Draw(Split::kTrain, 0, 15)->tokens, binary->Draw(Split::kTrain, 0, 15)->tokens);
  // The first share of the files is kept, whatever the order.
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto some, Make(R"({"train_share": 0.4})", TempPath("bin.tar.gz"), true));
  ASSERT_EQ(some->example_count(Split::kTrain), 6);
  std::vector<int64_t> labels = some->Draw(Split::kTrain, 0, 6)->targets;
  std::sort(labels.begin(), labels.end());
  EXPECT_EQ(labels, (std::vector<int64_t>{1, 2, 2, 3, 3, 4}));  // batches 1 and 2
}

TEST(CifarTest, ReadsWhatPythonsOwnPickleWrites) {
  const std::string path = TempPath("pickled"), records = WriteFile(TempPath("records.bin"), Records(3, 5));
  const std::string script = absl::StrCat(
      "import numpy, pickle; r = numpy.fromfile('", records,
      "', numpy.uint8).reshape(-1, 3073); "
      "pickle.dump({b'labels': r[:, 0].tolist(), b'data': numpy.ascontiguousarray(r[:, 1:])}, open('",
      path, "', 'wb'), protocol=4)");
  const std::string command = absl::StrCat("'", EIGSVC_ORACLE_PYTHON, "' -c \"", script, "\"");
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto python, Make("{}", path, false));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto binary, Make("{}", records, false));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch a, python->Draw(Split::kTest, 0, 5));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch b, binary->Draw(Split::kTest, 0, 5));
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.targets, b.targets);
}

TEST(CifarTest, BadFilesAreNamed) {
  const auto parse = [](const std::string& bytes) { return ParseCifarBatch(bytes, "batch"); };
  const auto invalid = [](const char* message) {
    return StatusIs(StatusCode::kInvalidArgument, AllOf(HasSubstr("batch"), HasSubstr(message)));
  };
  const std::string good = Records(1, 3), pickled = Python2Pickle(good);
  EIGSVC_ASSERT_OK(parse(good));
  EIGSVC_ASSERT_OK(parse(pickled));
  EXPECT_THAT(parse(good.substr(0, good.size() - 1)), invalid("has 9218 bytes, no multiple of 3073"));
  EXPECT_THAT(parse(""), invalid("no images"));
  std::string label = good;
  label[3073] = 10;
  EXPECT_THAT(parse(label), invalid("record 1 (byte 3073): the label is 10"));
  EXPECT_THAT(parse(Python2Pickle(good, "f4")), invalid("uint8"));
  EXPECT_THAT(parse(Python2Pickle(good, "u1", 2)), invalid("claims 2 images in 9216 bytes"));
  EXPECT_THAT(parse(Python2Pickle("")), invalid("no images"));
  EXPECT_THAT(parse("\x80\x02}q\x01."), invalid("no \"data\" or no \"labels\""));
  EXPECT_THAT(parse("\x80\x02]q\x01."), invalid("not of a dict"));
  EXPECT_THAT(parse("\x80\x02"
                    "cos\nsystem\nU\x04true\x85R."),
              invalid("os system"));
  std::string bad_label = pickled;
  bad_label[bad_label.find("q\x05(K") + 4] = 77;
  EXPECT_THAT(parse(bad_label), invalid("label 0 is no integer from 0 to 9"));
  for (size_t cut = 1; cut < pickled.size(); cut += 97) {
    EXPECT_FALSE(parse(pickled.substr(0, cut)).ok()) << cut;
  }
  EXPECT_THAT(parse(pickled.substr(0, 2000)), StatusIs(StatusCode::kDataLoss, HasSubstr("batch")));

  EXPECT_THAT(Make(R"({"colour": true})", TempPath("none"), false),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("set input=scalar")));
  Files missing = Binary();
  missing.erase(missing.begin() + 4);  // data_batch_3
  EXPECT_THAT(Make("{}", WriteFile(TempPath("m.tar.gz"), Pack(Packing::kTarGz, missing)), true),
              StatusIs(StatusCode::kNotFound, AllOf(HasSubstr("no data_batch_3.bin or data_batch_3"),
                                                    HasSubstr("eigsvc tasks describe cifar-10"))));
  EIGSVC_EXPECT_OK(Make("{}", TempPath("m.tar.gz"), false));
  Files both = Binary();
  both.push_back(Pickled()[0]);
  EXPECT_THAT(Make("{}", WriteFile(TempPath("b.tar.gz"), Pack(Packing::kTarGz, both)), false),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("the second file of its kind")));
}

}  // namespace
}  // namespace eigsvc
