#!/usr/bin/env bash
# `make bench`: our plain forward and our analysis against public implementations on the same weights, lengths and
# thread count, interleaved in one run. Prints ratios; above 1 means ours is faster.
#   tests/bench/run.sh BIN_DIR
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${EIGSVC_ORACLE_PYTHON:?run this through make bench}" tests/bench/forward.py --bin "$1"
