#include "client/cli/progress.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/analysis_json.h"
#include "client/cli/number_text.h"

namespace eigsvc::cli {
namespace {

constexpr absl::Duration kRedraw = absl::Milliseconds(100);
constexpr absl::Duration kPlainInterval = absl::Seconds(10);
constexpr int kBarWidth = 24;
constexpr absl::string_view kClearLine = "\r\x1b[K";

std::string DoneText(const Progress::State& state) {
  if (state.unit == "bytes") return absl::StrCat(BytesText(state.done), " of ", BytesText(state.total));
  if (state.total <= 0) return state.done > 0 ? absl::StrCat(CountText(state.done), " ", state.unit) : "";
  return absl::StrCat(CountText(state.done), "/", CountText(state.total), " ", state.unit);
}

// Cut to `columns`, so that a bar never wraps (a wrapped line cannot be redrawn).
std::string Cut(const std::string& text, int columns) {
  std::string cut;
  int width = 0;
  for (const char c : text) {
    if ((c & 0xC0) != 0x80 && ++width > columns) break;
    cut.push_back(c);
  }
  return cut;
}

}  // namespace

Progress::Progress(ProgressMode mode, std::function<void(absl::string_view)> write, Style style,
                   std::function<absl::Time()> clock)
    : mode_(mode), write_(std::move(write)), style_(style), clock_(std::move(clock)) {}

Progress::~Progress() { Finish(); }

void Progress::Update(State state) {
  const absl::Time now = clock_();
  if (!started_ || state.phase != state_.phase) {
    if (!started_) last_write_ = now;
    started_ = true;
    phase_start_ = now;
    phase_first_ = state.done;
    state_ = std::move(state);
    if (mode_ == ProgressMode::kBar) last_write_ = absl::InfinitePast();
  } else {
    state_ = std::move(state);
  }
  if (mode_ == ProgressMode::kJson) write_(absl::StrCat(JsonLine(now), "\n"));
  Tick();
}

void Progress::Tick() {
  if (!started_) return;
  const absl::Time now = clock_();
  if (mode_ == ProgressMode::kBar && now - last_write_ >= kRedraw) {
    write_(absl::StrCat(kClearLine, BarLine(now)));
    drawn_ = true;
    last_write_ = now;
  }
  if (mode_ == ProgressMode::kPlain && now - last_write_ >= kPlainInterval) {
    write_(absl::StrCat(PlainLine(now), "\n"));
    last_write_ = now;
  }
}

void Progress::Finish() {
  if (drawn_) write_(kClearLine);
  drawn_ = false;
  started_ = false;
}

absl::Duration Progress::Remaining(absl::Time now) const {
  const int64_t done = state_.done - phase_first_;
  if (done <= 0 || state_.total <= 0) return absl::InfiniteDuration();
  return (now - phase_start_) *
         (static_cast<double>(std::max<int64_t>(state_.total - state_.done, 0)) / static_cast<double>(done));
}

std::string Progress::BarLine(absl::Time now) const {
  std::string line = absl::StrCat(Printable(state_.phase), " ");
  if (state_.total > 0) {
    const double fraction =
        std::clamp(static_cast<double>(state_.done) / static_cast<double>(state_.total), 0.0, 1.0);
    const int filled = static_cast<int>(std::floor(fraction * kBarWidth));
    for (int i = 0; i < kBarWidth; ++i)
      absl::StrAppend(&line, i < filled ? style_.Pick("█", "#") : style_.Pick("░", "."));
    absl::StrAppend(&line, absl::StrFormat(" %3.0f %%  ", std::floor(fraction * 100)));
  }
  absl::StrAppend(&line, DoneText(state_));
  if (!state_.detail.empty()) absl::StrAppend(&line, "  ", state_.detail);
  const absl::Duration remaining = Remaining(now);
  if (remaining != absl::InfiniteDuration() && state_.done < state_.total) {
    absl::StrAppend(&line, "  ", DurationText(remaining), " left");
  } else if (state_.done == 0) {
    absl::StrAppend(&line, "  ", DurationText(now - phase_start_));
  }
  return Cut(line, style_.columns - 1);
}

std::string Progress::PlainLine(absl::Time now) const {
  std::string line = absl::StrCat("eigsvc: ", Printable(state_.phase));
  const std::string done = DoneText(state_);
  if (!done.empty()) absl::StrAppend(&line, " ", done);
  if (!state_.detail.empty()) absl::StrAppend(&line, ", ", state_.detail);
  absl::StrAppend(&line, ", ", DurationText(now - phase_start_));
  const absl::Duration remaining = Remaining(now);
  if (remaining != absl::InfiniteDuration()) absl::StrAppend(&line, ", ", DurationText(remaining), " left");
  return line;
}

std::string Progress::JsonLine(absl::Time now) const {
  const absl::Duration remaining = Remaining(now);
  Json line = {{"event", "progress"},
               {"phase", state_.phase},
               {"done", state_.done},
               {"total", state_.total > 0 ? Json(state_.total) : Json()},
               {"unit", state_.unit},
               {"elapsed_s", absl::ToDoubleSeconds(now - phase_start_)},
               {"eta_s", absl::ToDoubleSeconds(remaining)}};  // infinity, for unknown, is written as null
  for (const auto& [name, number] : state_.numbers) line[name] = number;
  return Line(line);
}

}  // namespace eigsvc::cli
