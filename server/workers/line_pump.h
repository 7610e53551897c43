// LinePump: passes what a child writes on, line by line, and bounded: a line is cut at 4 KiB and of more than
// 200 lines in a second the rest is counted, not passed.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "absl/status/statusor.h"

namespace eigsvc {

class LinePump {
 public:
  // `sink` is called on a thread of the pump's own, for each line without its line break and with control
  // characters replaced.
  explicit LinePump(std::function<void(const std::string&)> sink);
  // Reads what is still in the pipe, then ends.
  ~LinePump();

  // UNAVAILABLE when there are no descriptors left.
  absl::Status Start();
  // For the child; close ours once it runs, so that its end is seen.
  int write_fd() const { return write_fd_; }
  void CloseWriteEnd();

 private:
  void Run();

  const std::function<void(const std::string&)> sink_;
  int read_fd_ = -1, write_fd_ = -1, stop_fd_ = -1;
  std::thread thread_;
};

}  // namespace eigsvc
