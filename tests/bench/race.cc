#include "tests/bench/race.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <utility>
#include <vector>

#include "ATen/Context.h"
#include "ATen/Parallel.h"
#include "ATen/core/grad_mode.h"
#include "ATen/detail/CUDAHooksInterface.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "c10/util/Exception.h"

namespace eigsvc::bench {
namespace {

void WaitForDevice() {
  if (HasCuda()) c10::impl::VirtualGuardImpl(c10::kCUDA).synchronizeDevice(0);
}

double Seconds(const std::function<void()>& run) {
  WaitForDevice();
  const auto start = std::chrono::steady_clock::now();
  run();
  WaitForDevice();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Run(const std::function<Work()>& make, benchmark::State& state) {
  const at::NoGradGuard no_grad;
  try {
    at::manual_seed(1);
    const Work work = make();
    for (auto _ : state) state.SetIterationTime(Seconds(work.run));
    state.SetItemsProcessed(static_cast<int64_t>(work.items) * static_cast<int64_t>(state.iterations()));
    if (work.report) work.report(state);
  } catch (const c10::Error& error) {  // out of memory, a device's error
    state.SkipWithError(error.what_without_backtrace());
  }
}

}  // namespace

void Race(const std::string& name, std::function<Work()> make) {
  benchmark::RegisterBenchmark(name.c_str(), [make = std::move(make)](benchmark::State& state) {
    Run(make, state);
  })->UseManualTime();
}

bool HasCuda() { return at::detail::getCUDAHooks().hasCUDA() && at::detail::getCUDAHooks().getNumGPUs() > 0; }

void* CurrentStream() {
  return c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(c10::Device(c10::kCUDA, 0)).native_handle();
}

// at::parallel_for is serial in code that is not compiled with OpenMP.
void InParallel(int64_t count, int64_t block, const std::function<void(int64_t, int64_t)>& body) {
  std::atomic<int64_t> next = 0;
  std::vector<std::future<void>> threads;
  for (int i = 0; i < at::get_num_threads(); ++i) {
    threads.push_back(std::async(std::launch::async, [&] {
      const at::NoGradGuard no_grad;
      at::set_num_threads(1);
      for (int64_t at = block * next++; at < count; at = block * next++)
        body(at, std::min(at + block, count));
    }));
  }
  for (std::future<void>& thread : threads) thread.wait();
  for (std::future<void>& thread : threads) thread.get();
}

void Check(const absl::Status& status) { TORCH_CHECK(status.ok(), std::string(status.message())); }

}  // namespace eigsvc::bench
