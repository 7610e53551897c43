// Benchmarks of kernels_bench, timed by Google Benchmark: what one repeats and how much work that is.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "benchmark/benchmark.h"

namespace eigsvc::bench {

struct Work {
  double items = 1;  // of one run: matrices, windows, bytes
  std::function<void()> run;
  // After the last run, for what else is told (counters).
  std::function<void(benchmark::State&)> report = {};
};

// Registers "TABLE/ROW/RUNNER". `make` is called anew for each repetition, with LibTorch's generator at the
// same seed, so that the runners of a row get the same numbers. A run's time ends when the device is idle.
void Race(const std::string& name, std::function<Work()> make);

bool HasCuda();
void* CurrentStream();  // a cudaStream_t of the first device
// Throws what ends a benchmark with an error: work that was not done takes no time.
void Check(const absl::Status& status);

// Deals blocks [begin, end) of [0, count) out to as many threads as LibTorch uses, each with a BLAS of one.
// Throws what one of them threw.
void InParallel(int64_t count, int64_t block, const std::function<void(int64_t, int64_t)>& body);

void RegisterEigenvalues();
void RegisterRankOne();
void RegisterWindows();
void RegisterCounts();  // of a device only

}  // namespace eigsvc::bench
