// Keeps the shape of ARCHITECTURE.md true: reads every #include line of the tree.
#include "tests/floors/floors.h"

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/paths.h"

namespace eigsvc::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::filesystem::path> Sources() {
  std::vector<std::filesystem::path> files;
  const std::set<std::string> endings = {".h", ".cc", ".cu", ".cuh"};
  for (const char* floor : {"models", "server", "client", "tests"}) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(SourcePath(floor))) {
      if (endings.count(entry.path().extension().string()) > 0) files.push_back(entry.path());
    }
  }
  return files;
}

TEST(FloorsTest, IncludesPointDownOnly) {
  const std::vector<std::filesystem::path> files = Sources();
  ASSERT_GT(files.size(), 30u) << "the tree was not found";
  for (const std::filesystem::path& file : files) {
    std::ifstream stream(file);
    ASSERT_TRUE(stream.is_open()) << file;
    const std::string text{std::istreambuf_iterator<char>(stream), {}};
    const std::string path = std::filesystem::relative(file, SourcePath(".")).generic_string();
    for (const std::string& violation : CheckIncludes(path, text)) ADD_FAILURE() << violation;
  }
}

TEST(FloorsTest, EveryRoomOfTheTreeIsInTheTable) {
  const std::vector<std::string> known = KnownRooms();
  for (const std::filesystem::path& file : Sources()) {
    const std::string path = std::filesystem::relative(file, SourcePath(".")).generic_string();
    if (path.starts_with("tests/")) continue;
    // A folder inside a room (models/tasks/readers) belongs to it.
    const size_t floor = path.find('/'), end = path.find('/', floor + 1);
    const std::string room = path.substr(0, end == std::string::npos ? floor : end);
    EXPECT_THAT(known, ::testing::Contains(room)) << "of " << path;
  }
}

// A cycle would mean that some arrow points up.
TEST(FloorsTest, TheTableHasNoCycle) {
  std::set<std::string> done;
  const std::function<void(const std::string&, std::vector<std::string>)> visit =
      [&](const std::string& room, std::vector<std::string> path) {
        ASSERT_THAT(path, ::testing::Not(::testing::Contains(room))) << "a cycle through " << room;
        if (!done.insert(room).second) return;
        path.push_back(room);
        for (const std::string& below : FloorsBelow(room)) visit(below, path);
      };
  for (const std::string& room : KnownRooms()) visit(room, {});
}

TEST(FloorsTest, ShelvesDoNotKnowEachOther) {
  EXPECT_THAT(
      CheckIncludes("models/zoo/gpt2.cc", "\n#include \"models/tasks/task.h\"\n"),
      ElementsAre(
          "models/zoo/gpt2.cc:2: #include \"models/tasks/task.h\": there is no arrow from models/zoo to "
          "models/tasks"));
  EXPECT_THAT(CheckIncludes("models/tasks/mqar.cc", "#include \"models/zoo/registry.h\""),
              ElementsAre(HasSubstr("no arrow")));
}

TEST(FloorsTest, RpcAndHttpDoNotKnowEachOther) {
  EXPECT_THAT(CheckIncludes("server/rpc/a.cc", "#include \"server/http/b.h\""),
              ElementsAre(HasSubstr("no arrow")));
  EXPECT_THAT(CheckIncludes("server/http/a.cc", "#include \"server/rpc/b.h\""),
              ElementsAre(HasSubstr("no arrow")));
  EXPECT_THAT(CheckIncludes("server/http/a.cc", "#include \"server/jobs/jobs.h\""), IsEmpty());
}

TEST(FloorsTest, LibTorchStaysUpstairs) {
  for (const char* path :
       {"models/base/a.h", "models/spectrum/a.cc", "models/archive/a.cc", "models/tasks/a.cc",
        "server/jobs/a.cc", "server/inspection/a.cc", "client/cli/a.cc"}) {
    EXPECT_THAT(CheckIncludes(path, "#include \"ATen/core/Tensor.h\""), ElementsAre(HasSubstr("no LibTorch")))
        << path;
    EXPECT_THAT(CheckIncludes(path, "  #  include <c10/core/Device.h>"),
                ElementsAre(HasSubstr("no LibTorch")))
        << path;
  }
  EXPECT_THAT(CheckIncludes("models/kernels/a.cu", "#include <ATen/core/Tensor.h>"),
              ElementsAre(HasSubstr("CUDA sources")));
  EXPECT_THAT(CheckIncludes("models/zoo/a.cc", "#include \"ATen/core/Tensor.h\""), IsEmpty());
  EXPECT_THAT(CheckIncludes("server/worker/a.cc", "#include \"ATen/core/Tensor.h\""), IsEmpty());
}

TEST(FloorsTest, WholeLibraryHeadersAreBannedEverywhere) {
  for (const char* path : {"models/zoo/a.cc", "server/worker/a.cc", "tests/zoo/a_test.cc"}) {
    for (const char* header :
         {"torch/torch.h", "torch/script.h", "torch/nn.h", "torch/extension.h", "ATen/ATen.h"}) {
      EXPECT_THAT(CheckIncludes(path, std::string("#include <") + header + ">"),
                  ElementsAre(HasSubstr("banned")))
          << path << " " << header;
    }
  }
}

TEST(FloorsTest, GeneratedHeadersStayWhereTheyBelong) {
  EXPECT_THAT(CheckIncludes("models/analysis/a.h", "#include \"eigsvc/v1/analysis.pb.h\""),
              ElementsAre(HasSubstr("never under models/")));
  EXPECT_THAT(CheckIncludes("server/jobs/a.cc", "#include \"eigsvc/v1/analysis.pb.h\""), IsEmpty());
  EXPECT_THAT(CheckIncludes("server/jobs/a.cc", "#include \"eigsvc/v1/analysis_service.grpc.pb.h\""),
              ElementsAre(HasSubstr("generated services")));
  EXPECT_THAT(CheckIncludes("server/rpc/a.cc", "#include \"eigsvc/v1/analysis_service.grpc.pb.h\""),
              IsEmpty());
  EXPECT_THAT(CheckIncludes("tests/server_rpc/a.cc", "#include \"eigsvc/v1/analysis_service.grpc.pb.h\""),
              IsEmpty());
}

TEST(FloorsTest, DoorsReachTheGroundFloorOnly) {
  EXPECT_THAT(CheckIncludes("client/cli/a.cc", "#include \"models/archive/detect.h\""), IsEmpty());
  EXPECT_THAT(CheckIncludes("client/cli/a.cc", "#include \"server/jobs/jobs.h\""),
              ElementsAre(HasSubstr("no arrow")));
  EXPECT_THAT(CheckIncludes("server/jobs/a.cc", "#include \"models/analysis/analysis.h\""),
              ElementsAre(HasSubstr("no arrow")));
  EXPECT_THAT(CheckIncludes("models/base/a.cc", "#include \"tests/testing/paths.h\""),
              ElementsAre(HasSubstr("no arrow")));
}

TEST(FloorsTest, ARoomOutsideTheTableIsNamed) {
  EXPECT_THAT(CheckIncludes("models/attic/a.cc", "#include \"models/base/settings.h\""),
              ElementsAre(HasSubstr("models/attic is not in the table of floors")));
}

}  // namespace
}  // namespace eigsvc::testing
