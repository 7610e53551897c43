#include "client/cli/worker_program.h"

#include <fcntl.h>
#include <google/protobuf/util/json_util.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/cli/exit_code.h"
#include "client/cli/interrupt.h"
#include "models/base/status_macros.h"

extern char** environ;

namespace eigsvc::cli {
namespace {

constexpr int kExitStatusBase = 64;  // the worker's exit codes: 64 + status code
constexpr size_t kMaxOutputBytes = size_t{256} << 20;

struct Finished {
  int wait_status = 0;
  std::array<std::string, 2> output;  // stdout, stderr
};

absl::StatusOr<Finished> RunProgram(const std::string& binary, std::vector<std::string> arguments) {
  std::array<std::array<int, 2>, 2> pipes{};
  for (std::array<int, 2>& ends : pipes) {
    if (pipe2(ends.data(), O_CLOEXEC) != 0) {
      return LocalError(absl::StrCat("cannot start ", binary, ": pipe: ", std::strerror(errno)));
    }
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipes[0][1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, pipes[1][1], STDERR_FILENO);
  arguments.insert(arguments.begin(), binary);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t process = -1;
  const int error = posix_spawn(&process, binary.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  for (const std::array<int, 2>& ends : pipes) close(ends[1]);
  const absl::Cleanup close_pipes = [&] {
    for (const std::array<int, 2>& ends : pipes) close(ends[0]);
  };
  if (error != 0) return LocalError(absl::StrCat("cannot start ", binary, ": ", std::strerror(error)));

  Finished finished;
  absl::Status status;
  std::array<pollfd, 2> streams = {pollfd{pipes[0][0], POLLIN, 0}, pollfd{pipes[1][0], POLLIN, 0}};
  while (status.ok() && (streams[0].fd >= 0 || streams[1].fd >= 0)) {
    status = Interrupt::Check();
    if (poll(streams.data(), streams.size(), 50) <= 0) continue;
    for (size_t i = 0; i < streams.size(); ++i) {
      if (streams[i].fd < 0 || streams[i].revents == 0) continue;
      std::array<char, 65536> bytes;
      const ssize_t count = read(streams[i].fd, bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count > 0) finished.output[i].append(bytes.data(), static_cast<size_t>(count));
      if (count <= 0) streams[i].fd = -1;
      if (finished.output[i].size() > kMaxOutputBytes)
        status = LocalError(absl::StrCat(binary, " says too much"));
    }
  }
  if (!status.ok()) kill(process, SIGKILL);
  while (waitpid(process, &finished.wait_status, 0) < 0 && errno == EINTR) {
  }
  EIGSVC_RETURN_IF_ERROR(status);
  return finished;
}

}  // namespace

std::string WorkerBinary(const std::string& environment_value) {
  if (!environment_value.empty()) return environment_value;
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / "eigsvc-worker").string();
}

absl::StatusOr<v1::CheckpointInspection> InspectWithWorker(const std::string& binary,
                                                           const std::vector<std::string>& arguments) {
  EIGSVC_ASSIGN_OR_RETURN(const Finished finished, RunProgram(binary, arguments));
  const int code = WIFEXITED(finished.wait_status) ? WEXITSTATUS(finished.wait_status) : -1;
  if (code > kExitStatusBase &&
      code <= kExitStatusBase + static_cast<int>(absl::StatusCode::kUnauthenticated)) {
    absl::string_view message = absl::StripSuffix(finished.output[1], "\n");
    absl::ConsumePrefix(&message, "eigsvc-worker: ");
    return absl::Status(static_cast<absl::StatusCode>(code - kExitStatusBase), message);
  }
  v1::CheckpointInspection inspection;
  if (code == 0 && google::protobuf::util::JsonStringToMessage(finished.output[0], &inspection).ok()) {
    return inspection;
  }
  return LocalError(absl::StrCat(binary, " did not answer as eigsvc-worker does (exit code ", code,
                                 "): ", finished.output[1].substr(0, 500)));
}

}  // namespace eigsvc::cli
