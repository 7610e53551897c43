// The batched kernels beside what else there is: LibTorch's eigvals on the host and the device (LAPACK,
// cuSOLVER), its eigvalsh and histc, CUB. race_kernels.py runs it and prints tables of ratios; its own flags
// are Google Benchmark's (--benchmark_filter, --benchmark_repetitions, ...).
#include <string>

#include "ATen/Parallel.h"
#include "benchmark/benchmark.h"
#include "tests/bench/race.h"

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("threads", std::to_string(at::get_num_threads()));
  eigsvc::bench::RegisterEigenvalues();
  eigsvc::bench::RegisterRankOne();
  eigsvc::bench::RegisterWindows();
  eigsvc::bench::RegisterCounts();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
