#!/usr/bin/env bash
# `make bench`: our plain forward and our analysis against public implementations on the same weights, lengths and
# thread count, and our batched kernels against LAPACK, each interleaved in one run. Prints ratios; above 1 means ours is
# faster.
#   tests/bench/run.sh BIN_DIR
set -euo pipefail
cd "$(dirname "$0")/../.."
OMP_NUM_THREADS=$(nproc) python3 tests/bench/race_kernels.py --bin "$1"
exec "${EIGSVC_ORACLE_PYTHON:?run this through make bench}" tests/bench/forward.py --bin "$1"
