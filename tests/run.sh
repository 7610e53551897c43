#!/usr/bin/env bash
# `make test`: build, proto rules and style, every test labelled fast or slow, 20 seconds of fuzzing a target.
# A tree that passed is not tested again until a file changes (--force does).
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=build/.tests-passed
tree=$(git ls-files -co --exclude-standard -z | sort -z | xargs -0 sha256sum 2>/dev/null | sha256sum | cut -c1-64)
if [ "${1:-}" != --force ] && [ "$(head -n 1 $stamp 2>/dev/null)" = "$tree" ]; then
  echo "nothing changed since these tests passed (make test FORCE=1 runs them again):"
  tail -n +2 $stamp
  exit 0
fi

configure() {  # configure BUILD_DIR PRESET
  [ -f "$1/build.ninja" ] || cmake --preset "$2" -DEIGSVC_SHARED_DIR="$EIGSVC_SHARED_DIR" >"/tmp/eigsvc-configure.$$" 2>&1 ||
    { cat "/tmp/eigsvc-configure.$$" >&2; exit 1; }
  rm -f "/tmp/eigsvc-configure.$$"
}

started=$SECONDS
configure build dev
ninja -C build --quiet
echo "build: $((SECONDS - started)) s"
tests/lint.sh
results=build/test-results.txt
status=0
ctest --test-dir build -LE 'full|gpu' -j2 --output-on-failure --no-tests=error >$results 2>&1 || status=$?
cases=build/Testing/Temporary/LastTest.log
grep -vE '^ *Start ' $results || true
grep -hoE '^\[ +(PASSED|SKIPPED) +\] [0-9]+ tests?' $cases | awk '{n[$2] += $(NF - 1)} END {for (k in n) print n[k], "cases", tolower(k)}'
[ $status = 0 ] || exit $status
if [ -n "${EIGSVC_CI:-}" ] && tests/skipped.sh $cases $results; then
  echo "error: tests were skipped (above); CI runs all of them" >&2
  exit 1
fi
configure build-fuzz fuzz
ninja -C build-fuzz --quiet
fuzzed=$(tests/fuzz/run.sh 20)
echo "$fuzzed"
{ echo "$tree"; grep -E 'tests passed|tests failed' $results; echo "$fuzzed"; } >$stamp
echo "all in $((SECONDS - started)) s"
