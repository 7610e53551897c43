#!/usr/bin/env bash
# `make test-full`, after `make test`: the suite under AddressSanitizer and UndefinedBehaviorSanitizer, the daemon's jobs,
# workers and ground rooms under ThreadSanitizer (fakes in place of gRPC, whose Debian build is not instrumented), the
# long tests (label full: training from the recipe), every conformance case, two minutes of fuzzing a target,
# benchmarks that still run.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS
configure() {  # configure BUILD_DIR PRESET
  [ -f "$1/build.ninja" ] || cmake --preset "$2" -DEIGSVC_SHARED_DIR="$EIGSVC_SHARED_DIR" >/dev/null
}

echo "== AddressSanitizer, UndefinedBehaviorSanitizer"
configure build-asan asan
ninja -C build-asan --quiet
# Containers cross into uninstrumented libraries (protobuf, LibTorch), which ASan's container checks cannot follow;
# LibTorch and gRPC keep allocations until exit, so leaks are checked where neither is linked.
# Sizes that no memory holds are asked for on purpose.
export ASAN_OPTIONS=detect_container_overflow=0:detect_leaks=0:detect_odr_violation=0:alloc_dealloc_mismatch=0:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
ctest --test-dir build-asan -LE 'full|gpu' -E residency -j2 --output-on-failure --no-tests=error --no-label-summary | tail -n 8
# What was freed counts as memory for as long as ASan holds it back.
ASAN_OPTIONS=$ASAN_OPTIONS:quarantine_size_mb=1 ctest --test-dir build-asan -R residency --output-on-failure --no-tests=error --no-label-summary | tail -n 4
ASAN_OPTIONS=detect_leaks=1 ctest --test-dir build-asan -R '^(archive|base|spectrum|tasks)$' -j2 --output-on-failure --no-label-summary | tail -n 4
unset ASAN_OPTIONS UBSAN_OPTIONS

echo "== ThreadSanitizer"
configure build-tsan tsan
tsan_tests=(base_test spectrum_test archive_test server_store_test server_metrics_test server_workers_test server_jobs_test recipes_test)
ninja -C build-tsan --quiet "${tsan_tests[@]}" tasks_test
for test in "${tsan_tests[@]}"; do TSAN_OPTIONS=halt_on_error=1 "build-tsan/bin/$test" --gtest_brief=1; done
TSAN_OPTIONS=halt_on_error=1 build-tsan/bin/tasks_test --gtest_brief=1 --gtest_filter='Prefetch*:*Threads*'

echo "== long tests"
ctest --test-dir build -L full --output-on-failure --no-tests=error --no-label-summary | tail -n 8
EIGSVC_SETTINGS_ROUNDS=1000 build/bin/zoo_test --gtest_filter="*SettingsFuzz*" --gtest_brief=1
OMP_NUM_THREADS=1 "$EIGSVC_ORACLE_PYTHON" tests/conformance/run.py --all --check build/bin/conformance_check | tail -n 2
tests/fuzz/run.sh 120

echo "== benchmarks, on small sizes"
ninja -C build --quiet forward_bench kernels_bench
"$EIGSVC_ORACLE_PYTHON" tests/bench/forward.py --bin build/bin --rounds 2 --quick
"$EIGSVC_ORACLE_PYTHON" tests/bench/scripts.py --bin build/bin --device cpu --dtype float32 --steps 128 --rounds 2 --quick
python3 tests/bench/race_kernels.py --bin build/bin --rounds 1 --quick >/dev/null
echo "all in $((SECONDS - started)) s"
