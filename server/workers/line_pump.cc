#include "server/workers/line_pump.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxLine = 4096;
constexpr int kMaxLinesPerSecond = 200;

// Cuts bytes into lines and passes at most so many a second.
class LineCutter {
 public:
  explicit LineCutter(const std::function<void(const std::string&)>& sink) : sink_(sink) {}

  void Add(const char* bytes, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      const char c = bytes[i];
      if (c == '\n') {
        EndLine();
      } else if (line_.size() < kMaxLine) {
        line_.push_back(absl::ascii_iscntrl(static_cast<unsigned char>(c)) && c != '\t' ? ' ' : c);
      } else {
        cut_ = true;
      }
    }
  }

  void Flush() {
    if (!line_.empty()) EndLine();
    ReportDropped();
  }

 private:
  void EndLine() {
    if (cut_) absl::StrAppend(&line_, " [cut]");
    if (const absl::Time now = absl::Now(); now - window_start_ >= absl::Seconds(1)) {
      ReportDropped();
      window_start_ = now;
      passed_ = 0;
    }
    if (passed_++ < kMaxLinesPerSecond) {
      sink_(line_);
    } else {
      ++dropped_;
    }
    line_.clear();
    cut_ = false;
  }

  void ReportDropped() {
    if (dropped_ > 0) sink_(absl::StrCat("[", dropped_, " more lines dropped]"));
    dropped_ = 0;
  }

  const std::function<void(const std::string&)>& sink_;
  std::string line_;
  bool cut_ = false;
  absl::Time window_start_ = absl::InfinitePast();
  int passed_ = 0;
  int64_t dropped_ = 0;
};

}  // namespace

LinePump::LinePump(std::function<void(const std::string&)> sink) : sink_(std::move(sink)) {}

LinePump::~LinePump() {
  CloseWriteEnd();
  if (thread_.joinable()) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(stop_fd_, &one, sizeof one);
    thread_.join();
  }
  if (read_fd_ >= 0) close(read_fd_);
  if (stop_fd_ >= 0) close(stop_fd_);
}

absl::Status LinePump::Start() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot make a pipe: ", std::generic_category().message(errno)));
  }
  read_fd_ = fds[0];
  write_fd_ = fds[1];
  fcntl(read_fd_, F_SETFL, O_NONBLOCK);  // our end only: the pipe's two ends have flags of their own
  stop_fd_ = eventfd(0, EFD_CLOEXEC);
  if (stop_fd_ < 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot make an eventfd: ", std::generic_category().message(errno)));
  }
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void LinePump::CloseWriteEnd() {
  if (write_fd_ >= 0) close(write_fd_);
  write_fd_ = -1;
}

void LinePump::Run() {
  LineCutter cutter(sink_);
  char buffer[4096];
  bool stopping = false;
  while (true) {
    const ssize_t n = read(read_fd_, buffer, sizeof buffer);
    if (n > 0) {
      cutter.Add(buffer, static_cast<size_t>(n));
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    // The end; or nothing now and told to stop: a grandchild may hold the pipe open for ever.
    if (n == 0 || errno != EAGAIN || stopping) break;
    pollfd fds[2] = {{.fd = read_fd_, .events = POLLIN, .revents = 0},
                     {.fd = stop_fd_, .events = POLLIN, .revents = 0}};
    poll(fds, 2, -1);
    stopping = fds[1].revents != 0;
  }
  cutter.Flush();
}

}  // namespace eigsvc
