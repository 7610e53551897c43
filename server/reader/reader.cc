#include "server/reader/reader.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
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

constexpr size_t kMaxAnswer = size_t{256} << 20;
constexpr int kLookMs = 20;  // how often a stop is looked for

absl::Status NoReader(absl::string_view why) {
  return absl::UnavailableError(absl::StrCat("no process can be started that reads checkpoints: ", why));
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

// Of a reader that ended without a whole answer.
absl::Status CrashStatus(const std::string& answer) {
  int status = 0;
  if (answer.size() < sizeof status)
    return absl::UnavailableError("no process could be started to read it; try again");
  std::memcpy(&status, answer.data() + answer.size() - sizeof status, sizeof status);
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS)
    return absl::DataLossError("it shrank while it was read; copy it again");
  return absl::InternalError(absl::StrCat(
      "the process that read it ended by ",
      WIFSIGNALED(status) ? absl::StrCat("signal ", WTERMSIG(status)) : absl::StrCat("exit ", status),
      "; the file is damaged or hostile, and nothing of it was used. Please report it: reading should not "
      "end so"));
}

void TellUnconfined(const std::string& what) {
  static std::once_flag told;
  std::call_once(told, [&] {
    std::fprintf(stderr, "eigsvc-worker: the readers of checkpoints are not wholly confined: %s; going on\n",
                 what.c_str());
  });
}

absl::StatusOr<FileContents> ParseAnswer(const std::string& answer) {
  int64_t size = -1;
  if (answer.size() > sizeof size) std::memcpy(&size, answer.data(), sizeof size);
  worker::v1::FileContents message;
  if (size < 0 || answer.size() != sizeof size + static_cast<size_t>(size) + sizeof(int))
    return CrashStatus(answer);
  if (!message.ParseFromArray(answer.data() + sizeof size, static_cast<int>(size)))
    return absl::InternalError("its reader sent what no reader sends");
  if (!message.unconfined().empty()) TellUnconfined(message.unconfined());
  return ContentsFromProto(message);
}

}  // namespace

absl::StatusOr<FileContents> ConfinedReader::ReadWholeContents(absl::Span<const std::byte> bytes,
                                                               const std::string& name) {
  return ReadContents(bytes, name, static_cast<int64_t>(bytes.size()));
}

absl::StatusOr<std::unique_ptr<ConfinedReader>> ConfinedReader::Start(TakeApart take_apart) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return NoReader(std::generic_category().message(errno));
  const pid_t owner = getpid();
  const pid_t keeper = fork();
  if (keeper == 0) {
    close(pair[0]);
    Keep(pair[1], owner, take_apart);
  }
  close(pair[1]);
  if (keeper < 0) {
    const int error = errno;
    close(pair[0]);
    return NoReader(std::generic_category().message(error));
  }
  return std::unique_ptr<ConfinedReader>(new ConfinedReader(pair[0], keeper));
}

ConfinedReader::~ConfinedReader() {
  close(control_);
  waitpid(static_cast<pid_t>(keeper_), nullptr, 0);
}

absl::StatusOr<FileContents> ConfinedReader::Read(const OpenedFile& file, const StopToken& stop) const {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    return ErrnoStatus(errno, "cannot make a socket to the process that reads it");
  const bool sent = SendRequest(control_, file.name(), file.descriptor(), pair[1]);
  close(pair[1]);
  absl::StatusOr<FileContents> contents =
      absl::UnavailableError("the process that starts readers is gone; start the worker again");
  if (sent) {
    const absl::StatusOr<std::string> answer = ReceiveAnswer(pair[0], stop);
    contents = answer.ok() ? ParseAnswer(*answer) : answer.status();
  }
  close(pair[0]);  // ends a reader that still runs
  return contents;
}

}  // namespace eigsvc
