// The batched kernels beside what else there is, interleaved in one run: LibTorch's eigvals on the host and
// the device (LAPACK, cuSOLVER), its eigvalsh and histc. Prints Markdown tables of medians with their spread;
// ratios above 1 mean ours is faster.
//   kernels_bench [ROUNDS [TABLES]]      of eigenvalues,rank-one,windows,counts; all
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "ATen/Parallel.h"
#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/core/grad_mode.h"
#include "ATen/detail/CUDAHooksInterface.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/from_blob.h"
#include "ATen/ops/full.h"
#include "ATen/ops/histc.h"
#include "ATen/ops/linalg_eigvals.h"
#include "ATen/ops/linalg_eigvalsh.h"
#include "ATen/ops/linspace.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/sum.h"
#include "ATen/ops/zeros.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "models/kernels/batched_eigenvalues.h"
#include "models/kernels/periodic_eigenvalues.h"
#include "models/kernels/rank_one_eigenvalues.h"
#include "models/kernels/spectrum_counts.h"
#include "tests/bench/cub_histogram.h"
#include "tests/kernels/window_factors.h"

namespace eigsvc {
namespace {

#ifdef EIGSVC_CUDA_KERNELS
void* CurrentStream() {
  return c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(c10::Device(c10::kCUDA, 0)).native_handle();
}
#endif

bool HasCuda() { return at::detail::getCUDAHooks().hasCUDA() && at::detail::getCUDAHooks().getNumGPUs() > 0; }

void Wait() {
  if (HasCuda()) c10::impl::VirtualGuardImpl(c10::kCUDA).synchronizeDevice(0);
}

double Seconds(const std::function<void()>& body) {
  Wait();
  const auto start = std::chrono::steady_clock::now();
  body();
  Wait();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Runner {
  std::string name;
  std::function<void()> body;
  double work = 1;  // what a rate is of: matrices, bytes
  std::vector<double> seconds = {};

  double Rate(double quantile) const {  // work a second
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return work / sorted[static_cast<size_t>((1 - quantile) * static_cast<double>(sorted.size() - 1))];
  }
};

void Interleave(std::vector<Runner>& runners, int rounds) {
  for (Runner& runner : runners) runner.body();  // warm
  for (int round = 0; round < rounds; ++round) {
    for (Runner& runner : runners) runner.seconds.push_back(Seconds(runner.body));
  }
}

struct Buffers {
  at::Tensor matrices, real, imaginary, outcomes;
  template <typename T>
  EigenProblem<T> Problem() const {
    return {matrices.const_data_ptr<T>(),
            matrices.size(0),
            static_cast<int>(matrices.size(1)),
            real.mutable_data_ptr<T>(),
            imaginary.mutable_data_ptr<T>(),
            reinterpret_cast<EigenOutcome*>(outcomes.mutable_data_ptr<int32_t>())};
  }
};

Buffers MakeBuffers(int64_t count, int64_t order, at::ScalarType type, const c10::Device& device) {
  Buffers buffers;
  const auto options = at::TensorOptions().dtype(type).device(device);
  buffers.matrices = at::randn({count, order, order}, options) / std::sqrt(static_cast<double>(order));
  buffers.real = at::empty({count, order}, options);
  buffers.imaginary = at::empty_like(buffers.real);
  buffers.outcomes = at::empty({count}, options.dtype(at::kInt));
  return buffers;
}

// Deals blocks [begin, end) of [0, count) out to as many threads as LibTorch uses; at::parallel_for is serial
// in code that is not compiled with OpenMP.
void InParallel(int64_t count, int64_t block, const std::function<void(int64_t, int64_t)>& body) {
  std::atomic<int64_t> next = 0;
  std::vector<std::jthread> threads;
  for (int i = 0; i < at::get_num_threads(); ++i) {
    threads.emplace_back([&] {
      const at::NoGradGuard no_grad;
      at::set_num_threads(1);  // else each has a BLAS of as many threads again
      for (int64_t at = block * next++; at < count; at = block * next++)
        body(at, std::min(at + block, count));
    });
  }
}

template <typename T>
void SolveOnHost(const Buffers& buffers) {
  const EigenProblem<T> whole = buffers.Problem<T>();
  InParallel(whole.count, 64, [&](int64_t begin, int64_t end) {
    EigenProblem<T> part = whole;
    part.count = end - begin;
    part.matrices += begin * whole.order * whole.order;
    part.real += begin * whole.order;
    part.imaginary += begin * whole.order;
    part.outcomes += begin;
    (void)EigenvaluesOnCpu(part);
  });
}

template <typename T>
void RaceEigenvalues(at::ScalarType type, const char* name, int rounds) {
  const bool cuda = HasCuda();
  std::printf(
      "\n| %s, n | ours, device /s | ours, host /s | LAPACK, host /s | cuSOLVER, device /s | host ratio "
      "(min..max) | device / LAPACK | device / cuSOLVER |\n|---|---|---|---|---|---|---|---|\n",
      name);
  for (const int64_t order : {8, 16, 32, 64, 128}) {
    // Several packs a thread for ours; a fraction of it for LAPACK, at its rate.
    const int64_t host_count = 64 * at::get_num_threads() * (order <= 32 ? 8 : 2);
    const int64_t lapack_count = std::max<int64_t>(host_count / 8, at::get_num_threads());
    const Buffers host = MakeBuffers(host_count, order, type, c10::kCPU);
    std::vector<Runner> runners;
    runners.push_back({"host", [&] { SolveOnHost<T>(host); }, static_cast<double>(host_count)});
    runners.push_back({"lapack",
                       [&] {  // a matrix a call, dealt over the same threads, each BLAS on one
                         InParallel(lapack_count, 4, [&](int64_t begin, int64_t end) {
                           at::linalg_eigvals(host.matrices.narrow(0, begin, end - begin));
                         });
                       },
                       static_cast<double>(lapack_count)});
    std::optional<Buffers> device, few;
#ifdef EIGSVC_CUDA_KERNELS
    if (cuda) {
      const int64_t count = std::min<int64_t>(1 << 20, (int64_t{1} << 28) / (order * order));
      device = MakeBuffers(count, order, type, c10::Device(c10::kCUDA, 0));
      few = MakeBuffers(64, order, type, c10::Device(c10::kCUDA, 0));
      runners.push_back({"device", [&] { (void)EigenvaluesOnCuda(device->Problem<T>(), CurrentStream()); },
                         static_cast<double>(count)});
      runners.push_back({"cusolver", [&] { at::linalg_eigvals(few->matrices); }, 64});
    }
#endif
    Interleave(runners, rounds);
    const double host_rate = runners[0].Rate(0.5), lapack = runners[1].Rate(0.5);
    const auto spread = [&](double a, double b) { return runners[0].Rate(a) / runners[1].Rate(b); };
    if (cuda && runners.size() > 3) {
      std::printf("| %lld | %.3g | %.3g | %.3g | %.3g | %.1f (%.1f..%.1f) | %.0f | %.0f |\n",
                  static_cast<long long>(order), runners[2].Rate(0.5), host_rate, lapack,
                  runners[3].Rate(0.5), host_rate / lapack, spread(0, 1), spread(1, 0),
                  runners[2].Rate(0.5) / lapack, runners[2].Rate(0.5) / runners[3].Rate(0.5));
    } else {
      std::printf("| %lld | – | %.3g | %.3g | – | %.1f (%.1f..%.1f) | – | – |\n",
                  static_cast<long long>(order), host_rate, lapack, host_rate / lapack, spread(0, 1),
                  spread(1, 0));
    }
  }
}

struct RankOneBuffers {
  at::Tensor d, z, values, outcomes;
  template <typename T>
  RankOneProblem<T> Problem(int64_t first, int64_t length) const {
    const int64_t order = d.size(1), offset = first * order;
    return {d.const_data_ptr<T>() + offset,
            z.const_data_ptr<T>() + offset,
            length,
            static_cast<int>(order),
            values.mutable_data_ptr<T>() + offset,
            reinterpret_cast<EigenOutcome*>(outcomes.mutable_data_ptr<int32_t>()) + first};
  }
  at::Tensor Matrices(int64_t count) const {
    const at::Tensor column = z.narrow(0, 0, count).unsqueeze(-1);
    return at::diag_embed(d.narrow(0, 0, count)) - column * column.transpose(-1, -2);
  }
};

// Gates in [0.9, 1] and unit keys times the root of a strength, as a gated delta rule has them.
RankOneBuffers MakeRankOneBuffers(int64_t count, int64_t order, at::ScalarType type,
                                  const c10::Device& device) {
  const auto options = at::TensorOptions().dtype(type).device(device);
  RankOneBuffers buffers;
  buffers.d = 0.9 + 0.1 * at::rand({count, order}, options);
  const at::Tensor key = at::randn({count, order}, options);
  buffers.z = (buffers.d * at::rand({count, 1}, options)).sqrt() * key / key.square().sum({-1}, true).sqrt();
  buffers.values = at::empty_like(buffers.d);
  buffers.outcomes = at::empty({count}, options.dtype(at::kInt));
  return buffers;
}

// The secular solver beside LibTorch's eigvalsh of the matrices, ready made.
template <typename T>
void RaceRankOne(at::ScalarType type, const char* name, int rounds) {
  const bool cuda = HasCuda();
  std::printf(
      "\n| %s, diag(d) - z zT, n | ours, device /s | ours, host /s | LAPACK eigvalsh, host /s | eigvalsh, "
      "device /s | "
      "host ratio (min..max) | device / LAPACK | device / device |\n|---|---|---|---|---|---|---|---|\n",
      name);
  for (const int64_t order : {16, 32, 64, 128, 256}) {
    const int64_t host_count = 64 * at::get_num_threads() * (order <= 64 ? 8 : 1);
    const int64_t lapack_count = std::max<int64_t>(host_count / 8, at::get_num_threads());
    const RankOneBuffers host = MakeRankOneBuffers(host_count, order, type, c10::kCPU);
    const at::Tensor matrices = host.Matrices(lapack_count);
    std::vector<Runner> runners;
    runners.push_back({"host",
                       [&] {
                         InParallel(host_count, 32, [&](int64_t begin, int64_t end) {
                           (void)RankOneEigenvaluesOnCpu(host.Problem<T>(begin, end - begin));
                         });
                       },
                       static_cast<double>(host_count)});
    runners.push_back({"lapack",
                       [&] {
                         InParallel(lapack_count, 4, [&](int64_t begin, int64_t end) {
                           at::linalg_eigvalsh(matrices.narrow(0, begin, end - begin));
                         });
                       },
                       static_cast<double>(lapack_count)});
    std::optional<RankOneBuffers> device;
    at::Tensor on_device;
#ifdef EIGSVC_CUDA_KERNELS
    if (cuda) {
      const int64_t count = (int64_t{1} << 24) / order, few = 1024;
      device = MakeRankOneBuffers(count, order, type, c10::Device(c10::kCUDA, 0));
      on_device = device->Matrices(few);
      runners.push_back(
          {"device",
           [&, count] { (void)RankOneEigenvaluesOnCuda(device->Problem<T>(0, count), CurrentStream()); },
           static_cast<double>(count)});
      runners.push_back({"cusolver", [&] { at::linalg_eigvalsh(on_device); }, static_cast<double>(few)});
    }
#endif
    Interleave(runners, rounds);
    const double host_rate = runners[0].Rate(0.5), lapack = runners[1].Rate(0.5);
    const double least = runners[0].Rate(0) / runners[1].Rate(1),
                 most = runners[0].Rate(1) / runners[1].Rate(0);
    if (cuda && runners.size() > 3) {
      std::printf("| %lld | %.3g | %.3g | %.3g | %.3g | %.1f (%.1f..%.1f) | %.0f | %.0f |\n",
                  static_cast<long long>(order), runners[2].Rate(0.5), host_rate, lapack,
                  runners[3].Rate(0.5), host_rate / lapack, least, most, runners[2].Rate(0.5) / lapack,
                  runners[2].Rate(0.5) / runners[3].Rate(0.5));
    } else {
      std::printf("| %lld | – | %.3g | %.3g | – | %.1f (%.1f..%.1f) | – | – |\n",
                  static_cast<long long>(order), host_rate, lapack, host_rate / lapack, least, most);
    }
  }
}

#ifdef EIGSVC_CUDA_KERNELS
constexpr int kBins = 2048;

void AddCub(const at::Tensor& values, double bytes, std::vector<Runner>& runners) {
  const at::Tensor counts = at::zeros({kBins}, values.options().dtype(at::kInt));
  // From 2^-27 to 2^4 on either side of zero, like our own bins.
  const at::Tensor sizes = at::linspace(-27, 4, kBins / 2, values.options()).exp2();
  const at::Tensor levels = at::cat({-sizes.flip({0}), at::zeros({1}, values.options()), sizes});
  const auto* const x = values.const_data_ptr<float>();
  const auto bins = [counts] { return reinterpret_cast<uint32_t*>(counts.mutable_data_ptr<int32_t>()); };
  const int64_t count = values.numel();
  const auto check = [](bool done) {
    if (!done) std::abort();
  };
  runners.push_back(
      {"even", [=] { check(CubHistogramEven(x, count, kBins, -6, 6, bins(), CurrentStream())); }, bytes});
  runners.push_back(
      {"range",
       [=] {
         check(CubHistogramRange(x, count, kBins, levels.const_data_ptr<float>(), bins(), CurrentStream()));
       },
       bytes});
}

template <typename T>
void RaceCounts(const char* name, int rounds) {
  const c10::Device device(c10::kCUDA, 0);
  constexpr int64_t kCount = int64_t{1} << 28;
  const at::Tensor table =
      at::zeros({64, spectrum_slots::kSlots}, at::TensorOptions().dtype(at::kLong).device(device));
  const at::Tensor floor = at::full({1}, 5e-6, at::TensorOptions().dtype(at::kDouble).device(device));
  std::printf(
      "\n| 2^28 %s values | ours GB/s | histc, 2048 bins GB/s | CUB even GB/s | CUB range GB/s | read (sum) "
      "GB/s | ours / read (min..max) | ours / histc | ours / CUB even | ours / CUB range "
      "|\n|---|---|---|---|---|---|---|---|---|---|\n",
      name);
  for (const bool one_bin : {false, true}) {
    const auto options = at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value).device(device);
    const at::Tensor values = one_bin ? at::full({kCount}, -0.37, options) : at::randn({kCount}, options);
    CountProblem<T> problem;
    problem.parts[0] = {values.const_data_ptr<T>(), nullptr, floor.const_data_ptr<double>()};
    problem.rows = 1;
    problem.units = 64;
    problem.steps = kCount / 64;
    problem.per_unit = 1;
    problem.row_stride = kCount;
    problem.unit_stride = kCount / 64;
    problem.step_stride = problem.value_stride = 1;
    problem.slots = reinterpret_cast<uint64_t*>(table.mutable_data_ptr<int64_t>());
    const double bytes = static_cast<double>(sizeof(T)) * kCount;
    std::vector<Runner> runners = {{"ours", [&] { (void)CountOnCuda(problem, CurrentStream()); }, bytes},
                                   {"histc", [&] { at::histc(values, kBins, -6, 6); }, bytes},
                                   {"sum", [&] { at::sum(values); }, bytes}};
    if constexpr (std::is_same_v<T, float>) AddCub(values, bytes, runners);
    Interleave(runners, rounds);
    const double ours = runners[0].Rate(0.5), histc = runners[1].Rate(0.5), read = runners[2].Rate(0.5);
    std::printf("| %s | %.0f | %.0f |", one_bin ? "all in one bin" : "normal", ours / 1e9, histc / 1e9);
    for (size_t i : {3, 4}) {
      runners.size() > i ? std::printf(" %.0f |", runners[i].Rate(0.5) / 1e9) : std::printf(" – |");
    }
    std::printf(" %.0f | %.2f (%.2f..%.2f) | %.1f |", read / 1e9, ours / read,
                runners[0].Rate(0) / runners[2].Rate(1), runners[0].Rate(1) / runners[2].Rate(0),
                ours / histc);
    for (size_t i : {3, 4}) {
      runners.size() > i ? std::printf(" %.1f |", ours / runners[i].Rate(0.5)) : std::printf(" – |");
    }
    std::printf("\n");
  }
}
#endif

// Of each window's eigenvalues, sorted by size: how many of `found` are within 10 % of `expected`.
// [windows,order].
double ShareWithinTenPercent(const at::Tensor& found, const at::Tensor& expected) {
  const auto sorted = [](const at::Tensor& x) { return std::get<0>(x.sort(-1)); };
  return ((sorted(found) - sorted(expected)).expm1().abs() < 0.1).to(at::kDouble).mean().item<double>();
}

struct WindowBuffers {
  at::Tensor matrices, log_magnitude, phase, outcomes;
  PeriodicProblem Problem() const {
    const int64_t length = matrices.size(1);
    return {matrices.const_data_ptr<double>(),
            matrices.size(0),
            length,
            1,
            static_cast<int>(matrices.size(2)),
            {length, length},
            log_magnitude.mutable_data_ptr<double>(),
            phase.mutable_data_ptr<double>(),
            reinterpret_cast<EigenOutcome*>(outcomes.mutable_data_ptr<int32_t>())};
  }
};

// Of [windows,W,order,order], a row a window.
WindowBuffers MakeWindowBuffers(const at::Tensor& matrices) {
  const at::Tensor values = at::empty({matrices.size(0), matrices.size(2)}, matrices.options());
  return {matrices, values, at::empty_like(values),
          at::empty({matrices.size(0)}, matrices.options().dtype(at::kInt))};
}

// Products of W matrices: periodic QR against the product itself in float64, rescaled at each step, and
// LAPACK's eigenvalues of it. The shares are against periodic QR, which golden/windows.json holds to many
// digits.
void RaceWindows(int rounds) {
  std::printf(
      "\n| n, W | periodic QR, device, windows /s | host | product and LAPACK, host | of the product within "
      "10 %%, iid | gated |\n|---|---|---|---|---|---|\n");
  for (const int order : {8, 16, 32}) {
    for (const int64_t length : {16, 64, 256}) {
      const int64_t count = 2 * at::get_num_threads();
      double shares[2] = {};
      std::vector<double> rates;
      for (const char* kind : {"iid", "gated"}) {
        const bool iid = rates.empty();
        const std::vector<double> factors =
            testing::WindowFactors(kind, order, length * count, order + length);
        const at::Tensor matrices =
            at::from_blob(const_cast<double*>(factors.data()), {count, length, order, order}, at::kDouble);
        const WindowBuffers host = MakeWindowBuffers(matrices);
        at::Tensor formed;
        std::vector<Runner> runners = {
            {"host",
             [&] {
               InParallel(count, 1, [&](int64_t begin, int64_t end) {
                 (void)PeriodicEigenvaluesOnCpu(host.Problem(), begin, end - begin);
               });
             },
             static_cast<double>(count)},
            {"product",
             [&] {
               formed = at::empty({count, order}, at::kDouble);
               InParallel(count, 1, [&](int64_t begin, int64_t end) {
                 const at::Tensor own = matrices.narrow(0, begin, end - begin);
                 at::Tensor product = own.select(1, 0), scale = at::zeros({end - begin, 1}, at::kDouble);
                 for (int64_t k = 1; k < length; ++k) {
                   product = at::matmul(own.select(1, k), product);
                   const at::Tensor size = product.abs().amax({-2, -1}, /*keepdim=*/true);
                   product = product / size;
                   scale = scale + size.squeeze(-1).log();
                 }
                 formed.narrow(0, begin, end - begin).copy_(at::linalg_eigvals(product).abs().log() + scale);
               });
             },
             static_cast<double>(count)}};
        WindowBuffers device;
        at::Tensor work;
#ifdef EIGSVC_CUDA_KERNELS
        if (HasCuda() && iid) {
          constexpr int64_t kMany = 8192, kElements = int64_t{1} << 30;
          device = MakeWindowBuffers(matrices.repeat({kMany / count + 1, 1, 1, 1})
                                         .narrow(0, 0, kMany)
                                         .to(c10::Device(c10::kCUDA, 0)));
          const int64_t each = PeriodicWorkspace(device.Problem()), slots = std::min(kMany, kElements / each);
          work = at::empty({slots * each}, device.matrices.options());
          runners.push_back({"device",
                             [&, slots] {
                               (void)PeriodicEigenvaluesOnCuda(
                                   device.Problem(), work.mutable_data_ptr<double>(), slots, CurrentStream());
                             },
                             static_cast<double>(kMany)});
        }
#endif
        Interleave(runners, rounds);
        shares[iid ? 0 : 1] = ShareWithinTenPercent(formed, host.log_magnitude);
        if (iid) {
          for (const Runner& runner : runners) rates.push_back(runner.Rate(0.5));
        }
      }
      std::printf("| %d, %lld |", order, static_cast<long long>(length));
      rates.size() > 2 ? std::printf(" %.3g |", rates[2]) : std::printf(" – |");
      std::printf(" %.3g | %.3g | %.2f | %.2f |\n", rates[0], rates[1], shares[0], shares[1]);
    }
  }
}

int Main(int rounds, const std::string& tables) {
  const at::NoGradGuard no_grad;
  const auto wanted = [&](const char* table) {
    return tables.empty() || tables.find(table) != std::string::npos;
  };
  std::printf("%d threads, %d rounds\n", at::get_num_threads(), rounds);
  if (wanted("eigenvalues")) {
    RaceEigenvalues<float>(at::kFloat, "float32", rounds);
    RaceEigenvalues<double>(at::kDouble, "float64", rounds);
  }
  if (wanted("rank-one")) {
    RaceRankOne<float>(at::kFloat, "float32", rounds);
    RaceRankOne<double>(at::kDouble, "float64", rounds);
  }
  if (wanted("windows")) RaceWindows(rounds);
#ifdef EIGSVC_CUDA_KERNELS
  if (HasCuda() && wanted("counts")) {
    RaceCounts<float>("float32", rounds);
    RaceCounts<double>("float64", rounds);
  }
#endif
  return 0;
}

}  // namespace
}  // namespace eigsvc

int main(int argc, char** argv) {
  return eigsvc::Main(argc > 1 ? std::max(1, std::atoi(argv[1])) : 5, argc > 2 ? argv[2] : "");
}
