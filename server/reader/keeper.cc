#include "server/reader/keeper.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "server/reader/contents_proto.h"
#include "server/reader/jail.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxName = 4096;
constexpr int kFile = 3, kAnswer = 4;  // a reader's descriptors, beside the standard ones

struct Request {
  std::string name;
  int file, answer;
};

// Room for two descriptors, aligned as the kernel wants it.
union Descriptors {
  cmsghdr header;
  char bytes[CMSG_SPACE(2 * sizeof(int))];
};

// Nothing: the other end is closed.
std::optional<Request> Receive(int control) {
  std::string name(kMaxName, '\0');
  iovec text{name.data(), name.size()};
  Descriptors descriptors{};
  msghdr message{};
  message.msg_iov = &text;
  message.msg_iovlen = 1;
  message.msg_control = &descriptors;
  message.msg_controllen = sizeof descriptors;
  ssize_t size;
  do {
    size = recvmsg(control, &message, MSG_CMSG_CLOEXEC);
  } while (size < 0 && errno == EINTR);
  const cmsghdr* const header = size > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header == nullptr || header->cmsg_len != CMSG_LEN(2 * sizeof(int))) return std::nullopt;
  int pair[2];
  std::memcpy(pair, CMSG_DATA(header), sizeof pair);
  name.resize(static_cast<size_t>(size));
  return Request{std::move(name), pair[0], pair[1]};
}

bool WriteAll(int descriptor, const void* data, size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = send(descriptor, at, size, MSG_NOSIGNAL);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    at += written;
    size -= static_cast<size_t>(written);
  }
  return true;
}

worker::v1::FileContents TakeApartInJail(const Request& request,
                                         const ConfinedReader::TakeApart& take_apart) {
  const absl::StatusOr<OpenedFile> file = OpenedFile::Adopt(kFile, request.name);
  if (!file.ok()) return ContentsProto(file.status());
  const absl::StatusOr<FileBytes> mapped = file->Map();
  if (!mapped.ok()) return ContentsProto(mapped.status());
  const absl::Status jail = EnterJail(kReaderBytes);
  worker::v1::FileContents answer = ContentsProto(take_apart(mapped->bytes, request.name));
  answer.set_unconfined(std::string(jail.message()));
  return answer;
}

std::string Answer(const Request& request, const ConfinedReader::TakeApart& take_apart) {
  try {
    return TakeApartInJail(request, take_apart).SerializeAsString();
  } catch (const std::bad_alloc&) {
    return ContentsProto(absl::ResourceExhaustedError("it takes more memory to read than any checkpoint "
                                                      "should; save the weights alone"))
        .SerializeAsString();
  }
}

// Another reader's descriptors, and the keeper's, are not for this one.
void KeepOwnDescriptorsOnly(Request& request) {
  constexpr int kBeyond = 16;
  const int file = fcntl(request.file, F_DUPFD, kBeyond), answer = fcntl(request.answer, F_DUPFD, kBeyond);
  request.file = dup2(file, kFile);
  request.answer = dup2(answer, kAnswer);
  syscall(SYS_close_range, static_cast<unsigned>(kAnswer + 1), ~0U, 0U);
}

[[noreturn]] void BeReader(Request request, const ConfinedReader::TakeApart& take_apart) {
  prctl(PR_SET_NAME, "eigsvc-reader");
  KeepOwnDescriptorsOnly(request);
  const std::string bytes = Answer(request, take_apart);
  const int64_t size = static_cast<int64_t>(bytes.size());
  const bool sent = WriteAll(kAnswer, &size, sizeof size) && WriteAll(kAnswer, bytes.data(), bytes.size());
  _exit(sent ? 0 : 1);
}

struct Running {
  pid_t pid;
  int ended;   // a descriptor that is readable once the process has ended
  int answer;  // hangs up once nobody waits for an answer any more; -1: it has
};

std::optional<Running> StartReader(Request request, const ConfinedReader::TakeApart& take_apart) {
  const pid_t pid = fork();
  if (pid == 0) BeReader(std::move(request), take_apart);
  close(request.file);
  const int ended = pid < 0 ? -1 : static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (ended >= 0) return Running{pid, ended, request.answer};
  if (pid > 0) {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  close(request.answer);  // without an answer
  return std::nullopt;
}

void Finish(const Running& reader) {
  int status = 0;
  waitpid(reader.pid, &status, 0);
  close(reader.ended);
  if (reader.answer < 0) return;
  WriteAll(reader.answer, &status, sizeof status);
  close(reader.answer);
}

}  // namespace

bool SendRequest(int control, const std::string& name, int file, int answer) {
  std::string sent = name.substr(0, kMaxName);
  iovec text{sent.data(), sent.size()};
  Descriptors descriptors{};
  msghdr message{};
  message.msg_iov = &text;
  message.msg_iovlen = 1;
  message.msg_control = &descriptors;
  message.msg_controllen = sizeof descriptors;
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(2 * sizeof(int));
  const int pair[2] = {file, answer};
  std::memcpy(CMSG_DATA(header), pair, sizeof pair);
  ssize_t size;
  do {
    size = sendmsg(control, &message, MSG_NOSIGNAL);
  } while (size < 0 && errno == EINTR);
  return size >= 0;
}

void Keep(int control, pid_t owner, const ConfinedReader::TakeApart& take_apart) {
  prctl(PR_SET_NAME, "eigsvc-keeper");
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != owner) _exit(0);  // it ended before the line above
  // They come to the whole process group; the owner decides when this process ends.
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) signal(number, SIG_IGN);
  std::vector<Running> running;
  while (true) {
    std::vector<pollfd> waits = {{.fd = control, .events = POLLIN, .revents = 0}};
    for (const Running& reader : running) {
      waits.push_back({.fd = reader.ended, .events = POLLIN, .revents = 0});
      waits.push_back({.fd = reader.answer, .events = 0, .revents = 0});
    }
    if (poll(waits.data(), waits.size(), -1) < 0) continue;
    for (size_t i = running.size(); i-- > 0;) {
      if (waits[2 * i + 1].revents != 0) {
        Finish(running[i]);
        running.erase(running.begin() + static_cast<std::ptrdiff_t>(i));
      } else if (waits[2 * i + 2].revents != 0) {
        kill(running[i].pid, SIGKILL);
        close(std::exchange(running[i].answer, -1));
      }
    }
    if (waits[0].revents == 0) continue;
    std::optional<Request> request = Receive(control);
    if (!request) break;
    if (std::optional<Running> reader = StartReader(*std::move(request), take_apart))
      running.push_back(*reader);
  }
  for (const Running& reader : running) kill(reader.pid, SIGKILL);
  _exit(0);
}

}  // namespace eigsvc
