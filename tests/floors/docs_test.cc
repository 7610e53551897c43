// The README and docs/add-a-model.md show paths of this repository, which exist, and the latter lines, which
// are in the files.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "tests/testing/paths.h"

namespace eigsvc::testing {
namespace {

std::string ReadText(const std::string& path) {
  std::ifstream file(SourcePath(path));
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(DocsTest, PathsOfTheGuidesExist) {
  const std::regex path("[`(]((?:models|tests|docs|proto)/[A-Za-z0-9_./-]+)[`)]");
  for (const char* file : {"README.md", "docs/add-a-model.md"}) {
    const std::string guide = ReadText(file);
    int paths = 0;
    for (std::sregex_iterator at(guide.begin(), guide.end(), path), end; at != end; ++at, ++paths) {
      EXPECT_TRUE(std::filesystem::exists(SourcePath((*at)[1]))) << file << ": " << (*at)[1];
    }
    EXPECT_GT(paths, 5) << file;
  }
}

TEST(DocsTest, DiffsOfTheGuideToModelsAreInTheFiles) {
  const std::string guide = ReadText("docs/add-a-model.md");
  bool in_diff = false;
  std::set<std::string> files, lines;
  std::string file;
  int added = 0;
  for (absl::string_view line : absl::StrSplit(guide, '\n')) {
    if (absl::StartsWith(line, "```")) {
      in_diff = line == "```diff";
      continue;
    }
    if (!in_diff) continue;
    if (absl::ConsumePrefix(&line, "+++ b/")) {
      file = std::string(line);
      files.insert(file);
      const std::string text = ReadText(file);
      ASSERT_FALSE(text.empty()) << file;
      const std::vector<std::string> all = absl::StrSplit(text, '\n');
      lines.clear();
      lines.insert(all.begin(), all.end());
    } else if (absl::ConsumePrefix(&line, "+")) {
      ++added;
      EXPECT_EQ(lines.count(std::string(line)), 1u) << file << " has no line: " << line;
    }
  }
  EXPECT_GE(files.size(), 5u);
  EXPECT_GT(added, 30);
}

}  // namespace
}  // namespace eigsvc::testing
