#include "models/base/host_memory.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace eigsvc {
namespace {

// "NAME NUMBER" lines: /proc/meminfo, memory.stat.
std::map<std::string, int64_t> ReadNumbers(const std::string& path) {
  std::map<std::string, int64_t> numbers;
  std::ifstream file(path);
  std::string name, rest;
  for (int64_t number = 0; file >> name >> number; std::getline(file, rest)) numbers[name] = number;
  return numbers;
}

// A file of one number; nullopt where there is none ("max" is none).
std::optional<int64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  int64_t number = 0;
  if (!(file >> text) || !absl::SimpleAtoi(text, &number)) return std::nullopt;
  return number;
}

// What the files of one version of control groups are called.
struct Files {
  const char *limit, *used, *inactive, *active;
};
constexpr Files kVersion2 = {"memory.max", "memory.current", "inactive_file", "active_file"};
constexpr Files kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
                             "total_active_file"};

void Bound(const std::string& group, const Files& files, HostMemory* memory) {
  const std::optional<int64_t> limit = ReadNumber(absl::StrCat(group, "/", files.limit)),
                               used = ReadNumber(absl::StrCat(group, "/", files.used));
  // Version 1 writes "no limit" as a number near 2^63.
  if (!limit.has_value() || !used.has_value()) return;
  std::map<std::string, int64_t> stat = ReadNumbers(absl::StrCat(group, "/memory.stat"));
  const int64_t held = std::max<int64_t>(0, *used - stat[files.inactive] - stat[files.active]);
  memory->total_bytes = std::min(memory->total_bytes, *limit);
  memory->free_bytes = std::min(memory->free_bytes, std::max<int64_t>(0, *limit - held));
}

}  // namespace

HostMemory ReadHostMemory(const std::string& root) {
  std::map<std::string, int64_t> machine = ReadNumbers(root + "/proc/meminfo");
  HostMemory memory = {machine["MemTotal:"] << 10, machine["MemAvailable:"] << 10};
  // "0::/PATH" is version 2's, "N:CONTROLLERS:/PATH" version 1's.
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const bool second = parts[0] == "0" && parts[1].empty();
    const std::vector<absl::string_view> controllers = absl::StrSplit(parts[1], ',');
    if (!second && std::find(controllers.begin(), controllers.end(), "memory") == controllers.end()) continue;
    const std::string mount = absl::StrCat(root, second ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory");
    // A container may see its own group as the root of the mount, under a path that only the host knows.
    std::string path = parts[2] == "/" ? "" : parts[2];
    while (true) {
      Bound(mount + path, second ? kVersion2 : kVersion1, &memory);
      if (path.empty()) break;
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
  return memory;
}

}  // namespace eigsvc
