#!/usr/bin/env bash
# On a GPU machine with a CUDA build of PyTorch and transformers as `python3`: build against it, run what is labelled gpu
# and measure.
#   tests/gpu/run.sh [BUILD_DIR [CONFORMANCE_CASES]]      cases: tests/conformance/run.py --core --keep CONFORMANCE_CASES
# EIGSVC_GPU_STEPS: what to do after the build, of "test sanitize kernels forward scripts training" (all but sanitize).
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build-cuda}
cases=${2:-}
steps=" ${EIGSVC_GPU_STEPS-test kernels forward scripts training} "
launcher=()
command -v ccache >/dev/null || launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER= -DCMAKE_CUDA_COMPILER_LAUNCHER=)
cmake --preset cuda -B "$build" "${launcher[@]}" -DEIGSVC_PYTHON="$(command -v python3)" \
  ${cases:+-DEIGSVC_CONFORMANCE_CASES="$(realpath "$cases")"}
cmake --build "$build" -j "$(nproc)" --target eigsvc eigsvcd eigsvc-worker tensor_test zoo_test transition_test \
  kernels_test kernels_gpu_test analysis_gpu_test conformance_check kernels_bench forward_bench
if [[ $steps == *" test "* ]]; then
  for test in tensor transition zoo; do OMP_NUM_THREADS=4 "$build/bin/${test}_test" --gtest_brief=1; done
  "$build/bin/kernels_test" --gtest_brief=1
  ctest --test-dir "$build" -L gpu --output-on-failure --no-tests=error
fi
if [[ $steps == *" sanitize "* ]]; then
  # Small sizes: a checked kernel is up to a hundred times slower.
  for tool in memcheck racecheck; do
    EIGSVC_SMALL_KERNELS=1 compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/bin/kernels_gpu_test" --gtest_brief=1
  done
fi
if [[ $steps == *" kernels "* ]]; then python3 tests/bench/race_kernels.py --bin "$build/bin"; fi
if [[ $steps == *" forward "* ]]; then python3 tests/bench/device.py --bin "$build/bin"; fi
if [[ $steps == *" scripts "* ]]; then python3 tests/bench/scripts.py --bin "$build/bin"; fi
if [[ $steps == *" training "* ]]; then python3 tests/bench/training.py --bin "$build/bin"; fi
