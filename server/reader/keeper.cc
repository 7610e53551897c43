#include "server/reader/keeper.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "server/reader/reader_main.h"
#include "server/reader/sandbox.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxName = 4096;

// Room for two descriptors, aligned as the kernel wants it.
union Descriptors {
  cmsghdr header;
  char bytes[CMSG_SPACE(2 * sizeof(int))];
};

enum class Received { kRequest, kNothing, kEnd };

// kNothing: a message without its descriptors, for which this process had no room: who sent it sees its
// socket closed without an answer.
Received Receive(int control, ReadRequest& request) {
  request.name.assign(kMaxName, '\0');
  iovec parts[2] = {{&request.file_bytes, sizeof request.file_bytes}, {request.name.data(), kMaxName}};
  Descriptors descriptors{};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  message.msg_control = &descriptors;
  message.msg_controllen = sizeof descriptors;
  const ssize_t size = recvmsg(control, &message, MSG_CMSG_CLOEXEC);
  if (size < 0) return Received::kNothing;
  if (size == 0) return Received::kEnd;
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  const size_t room = header == nullptr ? 0 : (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  int pair[2] = {-1, -1};
  if (header != nullptr) std::memcpy(pair, CMSG_DATA(header), std::min<size_t>(room, 2) * sizeof(int));
  if (room == 2 && size >= static_cast<ssize_t>(sizeof request.file_bytes)) {
    request.name.resize(static_cast<size_t>(size) - sizeof request.file_bytes);
    request.bytes = pair[0];
    request.answer = pair[1];
    return Received::kRequest;
  }
  for (const int descriptor : pair) {
    if (descriptor >= 0) close(descriptor);
  }
  return Received::kNothing;
}

// By process: its answer's socket, which hangs up once nobody waits for it any more; -1: it has.
using Running = std::map<pid_t, int>;

void StartReader(ReadRequest request, const ConfinedReader::TakeApart& take_apart, Running& running) {
  const int answer = request.answer, bytes = request.bytes;
  const pid_t pid = fork();
  if (pid == 0) BeReader(std::move(request), take_apart);
  close(bytes);
  if (pid > 0) {
    running[pid] = answer;
  } else {
    close(answer);
  }
}

void FinishEnded(Running& running) {
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    const auto ended = running.find(pid);
    if (ended == running.end()) continue;
    if (ended->second >= 0) {
      SendAll(ended->second, &status, sizeof status);
      close(ended->second);
    }
    running.erase(ended);
  }
}

// Of what the worker holds nothing stays but the socket to it.
int TakeNothingAlong(int control) {
  const int kept = dup2(control, 3);
  if (kept != 3 || syscall(SYS_close_range, 4U, ~0U, 0U) != 0) {
    for (int descriptor = 4; descriptor < sysconf(_SC_OPEN_MAX); ++descriptor) close(descriptor);
  }
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
    std::memset(*variable, 0, std::strlen(*variable));
  }
  clearenv();
  return kept;
}

// Readable when a child has ended.
int EndedChildren() {
  signal(SIGCHLD, SIG_DFL);
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_BLOCK, &children, nullptr);
  return signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
}

}  // namespace

int SendRequest(int control, const std::string& name, int64_t file_bytes, int bytes, int answer) {
  std::string sent = name.substr(0, kMaxName);
  iovec parts[2] = {{&file_bytes, sizeof file_bytes}, {sent.data(), sent.size()}};
  Descriptors descriptors{};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  message.msg_control = &descriptors;
  message.msg_controllen = sizeof descriptors;
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(2 * sizeof(int));
  const int pair[2] = {bytes, answer};
  std::memcpy(CMSG_DATA(header), pair, sizeof pair);
  ssize_t size;
  do {
    size = sendmsg(control, &message, MSG_NOSIGNAL);
  } while (size < 0 && errno == EINTR);
  return size >= 0 ? 0 : errno == ECONNRESET ? EPIPE : errno;
}

void Keep(int control, pid_t owner, const ConfinedReader::TakeApart& take_apart) {
  prctl(PR_SET_NAME, "eigsvc-keeper");
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != owner) _exit(0);  // it ended before the line above
  prctl(PR_SET_DUMPABLE, 0);
  // They come to the whole process group; the owner decides when this process ends.
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) signal(number, SIG_IGN);
  control = TakeNothingAlong(control);
  const int ended = EndedChildren();
  if (control < 0 || ended < 0) _exit(1);
  if (const absl::Status status = EnterSandbox(); !status.ok()) {
    std::fprintf(stderr, "eigsvc-worker: the keeper of readers: %s; going on without\n",
                 std::string(status.message()).c_str());
  }
  Running running;
  while (true) {
    std::vector<pollfd> waits = {{.fd = control, .events = POLLIN, .revents = 0},
                                 {.fd = ended, .events = POLLIN, .revents = 0}};
    for (const auto& [pid, answer] : running) waits.push_back({.fd = answer, .events = 0, .revents = 0});
    if (poll(waits.data(), waits.size(), -1) < 0) {
      if (errno == EINTR) continue;
      _exit(1);  // the owner sees its socket closed
    }
    size_t place = 2;
    for (auto& [pid, answer] : running) {
      if (waits[place++].revents == 0) continue;
      kill(pid, SIGKILL);  // not waited for yet, so it is still this process
      close(std::exchange(answer, -1));
    }
    if (waits[1].revents != 0) {
      signalfd_siginfo told;
      while (read(ended, &told, sizeof told) > 0) {
      }
      FinishEnded(running);
    }
    if (waits[0].revents == 0) continue;
    ReadRequest request;
    const Received received = Receive(control, request);
    if (received == Received::kEnd) break;
    if (received == Received::kRequest) StartReader(std::move(request), take_apart, running);
  }
  for (const auto& [pid, answer] : running) kill(pid, SIGKILL);
  _exit(0);
}

}  // namespace eigsvc
