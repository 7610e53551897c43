#include "server/reader/reader.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "server/reader/contents_proto.h"
#include "server/reader/keeper.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxAnswer = size_t{64} << 20;
constexpr int kLookMs = 20;  // how often a stop is looked for

absl::Status NoReader(int error) {
  return absl::UnavailableError(absl::StrCat("no process can be started that reads checkpoints: ",
                                             std::generic_category().message(error)));
}

// Everything up to the end of the stream.
absl::StatusOr<std::string> ReceiveAnswer(int socket, const StopToken& stop) {
  std::string answer;
  while (true) {
    EIGSVC_RETURN_IF_ERROR(stop.Check());
    pollfd readable{.fd = socket, .events = POLLIN, .revents = 0};
    if (poll(&readable, 1, kLookMs) <= 0) continue;
    char buffer[size_t{64} << 10];
    const ssize_t size = recv(socket, buffer, sizeof buffer, 0);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return answer;
    answer.append(buffer, static_cast<size_t>(size));
    if (answer.size() > kMaxAnswer) return absl::InternalError("its reader sent more than any file holds");
  }
}

// Of a reader that ended without a whole answer; the keeper's word is the last.
absl::Status CrashStatus(const std::string& answer) {
  int status = 0;
  if (answer.size() < sizeof status)
    return absl::UnavailableError("no process could be started to read it; try again");
  std::memcpy(&status, answer.data() + answer.size() - sizeof status, sizeof status);
  const int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (number == SIGBUS) return absl::DataLossError("it shrank while it was read; copy it again");
  if (number == SIGXCPU)
    return absl::ResourceExhaustedError(
        "it takes longer to read than any checkpoint should; save the weights alone");
  if (number == SIGKILL)
    return absl::UnavailableError(
        "the process that read it was killed, perhaps for want of memory; try again");
  return absl::InternalError(
      absl::StrCat("the process that read it ended by ", number > 0 ? "signal " : "exit ",
                   number > 0 ? number : WEXITSTATUS(status),
                   "; the file is damaged or hostile, and nothing of it was used. Please report it: reading "
                   "should not end so"));
}

void TellUnconfined(const std::string& what) {
  static std::once_flag told;
  std::call_once(told, [&] {
    std::fprintf(stderr, "eigsvc-worker: the readers of checkpoints are not wholly confined: %s; going on\n",
                 Quoted(what).c_str());
  });
}

absl::StatusOr<FileContents> ParseAnswer(const std::string& answer, const std::string& name) {
  int64_t size = -1;
  if (answer.size() > sizeof size) std::memcpy(&size, answer.data(), sizeof size);
  if (size < 0 || answer.size() < sizeof size + sizeof(int) ||
      static_cast<uint64_t>(size) != answer.size() - sizeof size - sizeof(int)) {
    return CrashStatus(answer);
  }
  std::string unconfined;
  absl::StatusOr<FileContents> contents = ContentsFromAnswer(
      absl::string_view(answer).substr(sizeof size, static_cast<size_t>(size)), name, unconfined);
  if (!unconfined.empty()) TellUnconfined(unconfined);
  return contents;
}

}  // namespace

absl::StatusOr<FileContents> ConfinedReader::ReadWhatItIs(absl::Span<const std::byte> bytes,
                                                          const std::string& name, int64_t file_bytes) {
  return ReadContents(bytes, name, file_bytes);
}

absl::StatusOr<std::unique_ptr<ConfinedReader>> ConfinedReader::Start(TakeApart take_apart) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return NoReader(errno);
  const pid_t owner = getpid();
  const pid_t keeper = fork();
  if (keeper == 0) Keep(pair[1], owner, take_apart);
  const int error = errno;
  close(pair[1]);
  if (keeper < 0) {
    close(pair[0]);
    return NoReader(error);
  }
  return std::unique_ptr<ConfinedReader>(new ConfinedReader(pair[0], keeper));
}

ConfinedReader::~ConfinedReader() {
  shutdown(control_, SHUT_RDWR);  // a fork of this process may have the descriptor, too
  close(control_);
  waitpid(keeper_, nullptr, 0);
}

absl::StatusOr<FileContents> ConfinedReader::Read(const FileBytes& bytes, const std::string& name,
                                                  int64_t file_bytes, const StopToken& stop) const {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return NoReader(errno);
  const int error = SendRequest(control_, name, file_bytes, bytes.descriptor, pair[1]);
  close(pair[1]);
  absl::StatusOr<FileContents> contents = NoReader(error);
  if (error == 0) {
    const absl::StatusOr<std::string> answer = ReceiveAnswer(pair[0], stop);
    contents = answer.ok() ? ParseAnswer(*answer, name) : answer.status();
  }
  close(pair[0]);  // ends a reader that still runs
  return contents;
}

void ConfinedReader::WaitUntilKeeperIsGone() const {
  pollfd end{.fd = control_, .events = 0, .revents = 0};
  while (poll(&end, 1, -1) <= 0) {
  }
}

}  // namespace eigsvc
