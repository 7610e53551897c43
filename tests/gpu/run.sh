#!/usr/bin/env bash
# On a GPU machine with a CUDA build of PyTorch as `python3`: build against it and run what is labelled gpu.
#   tests/gpu/run.sh [BUILD_DIR]
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build-cuda}
launcher=()
command -v ccache >/dev/null || launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER= -DCMAKE_CUDA_COMPILER_LAUNCHER=)
cmake --preset cuda -B "$build" "${launcher[@]}" -DEIGSVC_PYTHON="$(command -v python3)"
cmake --build "$build" -j "$(nproc)" --target eigsvc eigsvcd eigsvc-worker tensor_test zoo_test transition_test \
  kernels_test kernels_gpu_test kernels_bench
OMP_NUM_THREADS=4 "$build/bin/tensor_test" --gtest_brief=1
"$build/bin/kernels_test" --gtest_brief=1
ctest --test-dir "$build" -L gpu --output-on-failure --no-tests=error
"$build/bin/kernels_bench"
