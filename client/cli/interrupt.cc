#include "client/cli/interrupt.h"

#include <atomic>
#include <csignal>

#include "client/cli/exit_code.h"

namespace eigsvc::cli {
namespace {

std::atomic<int> signal_count{0};
std::atomic<int> newest_signal{0};
std::atomic<int> acknowledged_count{0};
static_assert(std::atomic<int>::is_always_lock_free, "the handler may only touch lock-free atomics");

void CountSignal(int signal) {
  newest_signal.store(signal, std::memory_order_relaxed);
  signal_count.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

void Interrupt::Install() {
  struct sigaction action {};
  action.sa_handler = CountSignal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

int Interrupt::count() { return signal_count.load(std::memory_order_relaxed); }

int Interrupt::acknowledged() { return acknowledged_count.load(std::memory_order_relaxed); }

void Interrupt::Acknowledge(int count) { acknowledged_count.store(count, std::memory_order_relaxed); }

void Interrupt::Reset() {
  signal_count.store(0, std::memory_order_relaxed);
  acknowledged_count.store(0, std::memory_order_relaxed);
}

absl::Status Interrupt::Check() {
  if (count() == 0) return absl::OkStatus();
  return SignalError(newest_signal.load(std::memory_order_relaxed), "interrupted");
}

}  // namespace eigsvc::cli
