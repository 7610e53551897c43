#include "server/metrics/process_stats.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace eigsvc {
namespace {

std::string ReadProc(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

// Fields of proc(5)'s stat after the program's name, which may hold spaces and brackets itself: fields[0] is
// field 3.
std::vector<std::string> StatFields(const std::string& stat) {
  const size_t bracket = stat.rfind(')');
  if (bracket == std::string::npos) return {};
  return absl::StrSplit(stat.substr(bracket + 1), ' ', absl::SkipWhitespace());
}

double Field(const std::vector<std::string>& fields, size_t number) {
  double value = 0;
  if (number - 3 < fields.size() && !absl::SimpleAtod(fields[number - 3], &value)) value = 0;
  return value;
}

double BootTimeSeconds() {
  double value = 0;
  for (absl::string_view line : absl::StrSplit(ReadProc("/proc/stat"), '\n')) {
    if (absl::ConsumePrefix(&line, "btime ") && !absl::SimpleAtod(line, &value)) value = 0;
  }
  return value;
}

double CountOpenFds() {
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  int entries = 0;
  while (readdir(directory) != nullptr) ++entries;
  closedir(directory);
  return entries - 3;  // ".", ".." and the directory itself
}

}  // namespace

ProcessStats ReadOwnProcess() {
  const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  const std::vector<std::string> fields = StatFields(ReadProc("/proc/self/stat"));
  ProcessStats stats;
  stats.cpu_seconds = (Field(fields, 14) + Field(fields, 15)) / ticks;
  stats.start_time_seconds = BootTimeSeconds() + Field(fields, 22) / ticks;
  stats.virtual_bytes = Field(fields, 23);
  stats.resident_bytes = Field(fields, 24) * static_cast<double>(sysconf(_SC_PAGESIZE));
  stats.open_fds = CountOpenFds();
  if (rlimit limit{}; getrlimit(RLIMIT_NOFILE, &limit) == 0)
    stats.max_fds = static_cast<double>(limit.rlim_cur);
  return stats;
}

std::optional<double> ReadResidentBytes(int64_t pid) {
  const std::vector<std::string> fields = StatFields(ReadProc(absl::StrCat("/proc/", pid, "/stat")));
  if (fields.empty()) return std::nullopt;
  return Field(fields, 24) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

}  // namespace eigsvc
