#!/usr/bin/env bash
# `make test-full`, after `make test`: the suite under AddressSanitizer and UndefinedBehaviorSanitizer, the daemon's jobs,
# workers and ground rooms under ThreadSanitizer (fakes in place of gRPC, whose Debian build is not instrumented), the
# long tests (label full: training from the recipe), every conformance case, two minutes of fuzzing a target,
# benchmarks that still run.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS
# The last lines of what a command says. Of one that fails, more: what tests that passed say in one line each is left out.
ending() {  # ending LINES COMMAND...
  local lines=$1 log status=0
  log=$(mktemp)
  shift
  "$@" >"$log" 2>&1 || status=$?
  if [ $status = 0 ]; then
    tail -n "$lines" "$log"
    rm "$log"
    return
  fi
  { grep -vE '^ *Start +[0-9]+: | Test +#[0-9]+: .* Passed ' "$log" || true; } | tail -n 200
  echo "error: exit $status of: $*; all that it said is in $log" >&2
  exit $status
}
suite() {  # suite LINES CTEST_ARGUMENT...
  ending "$1" ctest "${@:2}" --output-on-failure --no-tests=error --no-label-summary
}

echo "== AddressSanitizer, UndefinedBehaviorSanitizer"
deploy/configure.sh build-asan asan
ninja -C build-asan --quiet
# Containers cross into uninstrumented libraries (protobuf, LibTorch), which ASan's container checks cannot follow;
# LibTorch and gRPC keep allocations until exit, so leaks are checked where neither is linked.
# Sizes that no memory holds are asked for on purpose.
export ASAN_OPTIONS=detect_container_overflow=0:detect_leaks=0:detect_odr_violation=0:alloc_dealloc_mismatch=0:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
suite 8 --test-dir build-asan -LE 'full|gpu' -E residency -j2
# What was freed counts as memory for as long as ASan holds it back.
ASAN_OPTIONS=$ASAN_OPTIONS:quarantine_size_mb=1 suite 4 --test-dir build-asan -R residency
ASAN_OPTIONS=detect_leaks=1 suite 4 --test-dir build-asan -R '^(archive|base|spectrum|tasks)$' -j2
unset ASAN_OPTIONS UBSAN_OPTIONS

echo "== ThreadSanitizer"
deploy/configure.sh build-tsan tsan
tsan_tests=(base_test spectrum_test archive_test server_store_test server_metrics_test server_workers_test server_jobs_test recipes_test)
ninja -C build-tsan --quiet "${tsan_tests[@]}" tasks_test
for test in "${tsan_tests[@]}"; do TSAN_OPTIONS=halt_on_error=1 "build-tsan/bin/$test" --gtest_brief=1; done
TSAN_OPTIONS=halt_on_error=1 build-tsan/bin/tasks_test --gtest_brief=1 --gtest_filter='Prefetch*:*Threads*'

echo "== long tests"
suite 8 --test-dir build -L full
EIGSVC_SETTINGS_ROUNDS=1000 build/bin/zoo_test --gtest_filter="*SettingsFuzz*" --gtest_brief=1
OMP_NUM_THREADS=1 ending 2 "$EIGSVC_ORACLE_PYTHON" tests/conformance/run.py --all --check build/bin/conformance_check
tests/fuzz/run.sh 120
tests/fuzz/coverage.sh 60

echo "== benchmarks, on small sizes"
ninja -C build --quiet forward_bench kernels_bench
"$EIGSVC_ORACLE_PYTHON" tests/bench/forward.py --bin build/bin --rounds 2 --quick
"$EIGSVC_ORACLE_PYTHON" tests/bench/scripts.py --bin build/bin --device cpu --dtype float32 --steps 128 --rounds 2 --quick
python3 tests/bench/race_kernels.py --bin build/bin --rounds 1 --quick >/dev/null
echo "all in $((SECONDS - started)) s"
