// Counting 2^28 values into 64 units' slots on a device, beside other histograms and a plain sum, which is
// what reading costs.
#include "tests/bench/race.h"

#ifdef EIGSVC_CUDA_KERNELS
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/full.h"
#include "ATen/ops/histc.h"
#include "ATen/ops/linspace.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/sum.h"
#include "ATen/ops/zeros.h"
#include "absl/strings/str_cat.h"
#include "c10/core/ScalarType.h"
#include "c10/util/Exception.h"
#include "models/kernels/spectrum_counts.h"
#include "tests/bench/cub_histogram.h"

namespace eigsvc::bench {
namespace {

constexpr int kBins = 2048;
constexpr int64_t kCount = int64_t{1} << 28;
const c10::Device kDevice(c10::kCUDA, 0);

template <typename T>
at::Tensor MakeValues(bool one_bin) {
  const auto options = at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value).device(kDevice);
  return one_bin ? at::full({kCount}, -0.37, options) : at::randn({kCount}, options);
}

template <typename T>
Work CountOurs(const at::Tensor& values) {
  const at::Tensor table =
      at::zeros({64, spectrum_slots::kSlots}, at::TensorOptions().dtype(at::kLong).device(kDevice));
  const at::Tensor floor = at::full({1}, 5e-6, at::TensorOptions().dtype(at::kDouble).device(kDevice));
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
  return {static_cast<double>(sizeof(T)) * kCount,
          [values, table, floor, problem] { Check(CountOnCuda(problem, CurrentStream())); }};
}

// CUB's, of float32, into `kBins` between levels of equal distance or, with `levels`, between those.
Work CountByCub(const at::Tensor& values, const at::Tensor& levels) {
  const at::Tensor counts = at::zeros({kBins}, values.options().dtype(at::kInt));
  return {4.0 * kCount, [=] {
            const auto* const x = values.const_data_ptr<float>();
            auto* const bins = reinterpret_cast<uint32_t*>(counts.mutable_data_ptr<int32_t>());
            const bool done = levels.defined()
                                  ? CubHistogramRange(x, kCount, kBins, levels.const_data_ptr<float>(), bins,
                                                      CurrentStream())
                                  : CubHistogramEven(x, kCount, kBins, -6, 6, bins, CurrentStream());
            TORCH_CHECK(done, "CUB reported a CUDA error");
          }};
}

template <typename T>
void Register(const char* type_name, bool one_bin) {
  const std::string row = absl::StrCat("counts ", type_name, "/", one_bin ? "all in one bin" : "normal", "/");
  const double bytes = static_cast<double>(sizeof(T)) * kCount;
  Race(row + "ours", [=] { return CountOurs<T>(MakeValues<T>(one_bin)); });
  Race(row + "read", [=] { return Work{bytes, [values = MakeValues<T>(one_bin)] { at::sum(values); }}; });
  Race(row + "histc", [=] {
    return Work{bytes, [values = MakeValues<T>(one_bin)] { at::histc(values, kBins, -6, 6); }};
  });
  if constexpr (std::is_same_v<T, float>) {
    Race(row + "CUB_even", [=] { return CountByCub(MakeValues<T>(one_bin), {}); });
    Race(row + "CUB_range", [=] {
      const at::Tensor values = MakeValues<T>(one_bin);
      // From 2^-27 to 2^4 on either side of zero, like our own bins.
      const at::Tensor sizes = at::linspace(-27, 4, kBins / 2, values.options()).exp2();
      return CountByCub(values, at::cat({-sizes.flip({0}), at::zeros({1}, values.options()), sizes}));
    });
  }
}

}  // namespace

void RegisterCounts() {
  if (!HasCuda()) return;
  for (const bool one_bin : {false, true}) Register<float>("float32", one_bin);
  for (const bool one_bin : {false, true}) Register<double>("float64", one_bin);
}

}  // namespace eigsvc::bench
#else
namespace eigsvc::bench {
void RegisterCounts() {}
}  // namespace eigsvc::bench
#endif
