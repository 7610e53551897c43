// Progress: how far a command is, on stderr: a bar that redraws itself on a terminal, a plain line every ten
// seconds elsewhere, JSON lines for programs, or nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cli/style.h"

namespace eigsvc::cli {

enum class ProgressMode { kBar, kPlain, kJson, kNone };

class Progress {
 public:
  struct State {
    std::string phase;                                    // "upload", "queue", "load", "run", "train"
    int64_t done = 0, total = 0;                          // total 0: unknown
    std::string unit;                                     // "examples", "steps", "bytes"
    std::string detail;                                   // shown behind the bar
    std::vector<std::pair<std::string, double>> numbers;  // further members of the JSON line
  };

  Progress(ProgressMode mode, std::function<void(absl::string_view)> write, Style style,
           std::function<absl::Time()> clock = absl::Now);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();  // Finish

  void Update(State state);
  // Redraws when due: time goes on between updates.
  void Tick();
  // Removes the bar, so that what follows starts on a clean line.
  void Finish();

 private:
  std::string BarLine(absl::Time now) const;
  std::string PlainLine(absl::Time now) const;
  std::string JsonLine(absl::Time now) const;
  // Of the phase, from its own speed; infinite when unknown.
  absl::Duration Remaining(absl::Time now) const;

  ProgressMode mode_;
  std::function<void(absl::string_view)> write_;
  Style style_;
  std::function<absl::Time()> clock_;
  State state_;
  bool started_ = false, drawn_ = false;
  absl::Time phase_start_, last_write_;
  int64_t phase_first_ = 0;  // `done` when the phase started: a resumed run does not start at 0
};

}  // namespace eigsvc::cli
