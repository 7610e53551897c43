// Against PyTorch and safetensors themselves: what they write is read value for value, what we write they
// read.
#include <cmath>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "models/archive/safetensors.h"
#include "tests/archive/fixtures.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::testing {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Runs oracle.py; its files are in `folder`.
void RunOracle(const std::string& arguments) {
  const std::string command =
      absl::StrCat("'", EIGSVC_ORACLE_PYTHON, "' '", SourcePath("tests/archive/oracle.py"), "' ", arguments);
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
}

double Number(const json& value) {
  return value.is_string() ? std::stod(value.get<std::string>()) : value.get<double>();
}

void ExpectEqual(const Archive& archive, const json& expected, const std::string& file) {
  ASSERT_EQ(archive.tensors().size(), expected.size()) << file;
  for (const auto& [key, record] : expected.items()) {
    ASSERT_TRUE(archive.tensors().contains(key)) << file << " " << key;
    const ArchiveTensor& tensor = archive.tensors().at(key);
    EXPECT_EQ(ElementName(tensor.type), record["dtype"].get<std::string>()) << file << " " << key;
    EXPECT_EQ(tensor.shape, record["shape"].get<std::vector<int64_t>>()) << file << " " << key;
    const std::vector<double> values = Values(tensor);
    ASSERT_EQ(values.size(), record["values"].size()) << file << " " << key;
    for (size_t i = 0; i < values.size(); ++i) {
      const double wanted = Number(record["values"][i]);
      if (std::isnan(wanted)) {
        EXPECT_TRUE(std::isnan(values[i])) << file << " " << key << " " << i;
      } else {
        EXPECT_EQ(values[i], wanted) << file << " " << key << " " << i;
        EXPECT_EQ(std::signbit(values[i]), std::signbit(wanted)) << file << " " << key << " " << i;
      }
    }
  }
}

#define EIGSVC_REQUIRE_ORACLE()                  \
  if (std::string(EIGSVC_ORACLE_PYTHON).empty()) \
  GTEST_SKIP() << "no oracle: configure with -DEIGSVC_ORACLE_PYTHON=/path/to/python3"

TEST(ArchiveOracleTest, FilesOfPyTorchAreReadValueForValueOrRefusedByName) {
  EIGSVC_REQUIRE_ORACLE();
  const TemporaryFolder folder;
  RunOracle(absl::StrCat("write '", folder.path(), "'"));
  const json expected = json::parse(ReadAll(folder.Path("expected.json")));
  ASSERT_GE(expected.size(), 15);
  for (const auto& [file, record] : expected.items()) {
    for (const bool memory_map : {false, true}) {
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive,
                                  Archive::Open(folder.Path(file), {.memory_map = memory_map}));
      ExpectEqual(archive, record, file);
    }
  }
  const json refused = json::parse(ReadAll(folder.Path("refused.json")));
  ASSERT_GE(refused.size(), 10);
  for (const auto& [file, words] : refused.items()) {
    const absl::Status status = Archive::Open(folder.Path(file)).status();
    EXPECT_THAT(status.code(),
                ::testing::AnyOf(absl::StatusCode::kInvalidArgument, absl::StatusCode::kFailedPrecondition))
        << file << status;
    for (const json& word : words)
      EXPECT_THAT(std::string(status.message()), HasSubstr(word.get<std::string>())) << file;
  }

  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive training, Archive::Open(folder.Path("training.pt")));
  EXPECT_EQ(training.settings().Int("step").value(), 12);
  EXPECT_EQ(training.settings().Real("eps").value(), 1e-5);
  EXPECT_EQ(training.settings().Real("best").value(), 0.25);
  EXPECT_TRUE(training.settings().Bool("tie").value());
  EXPECT_EQ(training.settings().Text("name").value(), "net");
  EXPECT_THAT(training.settings().Ints("sizes").value(), ElementsAre(3, 4));
  EXPECT_EQ(training.tensors().at("tied.weight").storage.data(),
            training.tensors().at("linear.weight").storage.data());

  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive lightning, Archive::Open(folder.Path("lightning.ckpt")));
  EXPECT_EQ(lightning.settings().Int("d_model").value(), 4);
  EXPECT_EQ(lightning.settings().Int("epoch").value(), 2);
  EXPECT_THAT(lightning.settings().Ints("size").value(), ElementsAre(2, 3));
  EXPECT_FALSE(lightning.settings().Has("path"));

  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive with_namespace, Archive::Open(folder.Path("namespace.pt")));
  EXPECT_EQ(with_namespace.settings().Int("d_model").value(), 4);
  EXPECT_THAT(with_namespace.settings().Ints("layers").value(), ElementsAre(1, 2));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive safe, Archive::Open(folder.Path("types.safetensors")));
  EXPECT_EQ(safe.settings().Int("d_model").value(), 4);
}

TEST(ArchiveOracleTest, OurFilesAreReadBySafetensors) {
  EIGSVC_REQUIRE_ORACLE();
  const TemporaryFolder folder;
  const std::string path = folder.Path("ours.safetensors");
  const std::vector<SafetensorsWriter::Declaration> declarations = {
      {"floats", ElementType::kFloat32, {2, 2}},
      {"name with \"quotes\" and \xc3\xa9", ElementType::kInt64, {1}},
      {"empty", ElementType::kFloat16, {0, 3}},
      {"scalar", ElementType::kFloat64, {}},
      {"bytes", ElementType::kUInt8, {3}},
  };
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      SafetensorsWriter writer,
      SafetensorsWriter::Create(path, declarations, {{"config", "{\"a\": \"\\u00e9\"}"}}));
  EIGSVC_ASSERT_OK(writer.WriteAt("bytes", 0, AsBytes(BytesOf<uint8_t>({7, 8, 9}))));
  EIGSVC_ASSERT_OK(writer.Append(
      AsBytes(BytesOf<float>({1.5f, -2, 3e38f, -0.0f}) + BytesOf<int64_t>({-5}) + BytesOf<double>({0.1}))));
  EIGSVC_ASSERT_OK(writer.Finish());
  RunOracle(absl::StrCat("read '", path, "' > '", folder.Path("read.json"), "'"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive ours, Archive::Open(path));
  EXPECT_THAT(Values(ours.tensors().at("floats")), ElementsAre(1.5, -2, static_cast<double>(3e38f), -0.0));
  ExpectEqual(ours, json::parse(ReadAll(folder.Path("read.json"))), "ours");
}

}  // namespace
}  // namespace eigsvc::testing
