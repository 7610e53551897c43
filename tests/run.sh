#!/usr/bin/env bash
# `make test`: build, proto rules and style, every test labelled fast or slow, 20 seconds of fuzzing a target.
# A tree that passed is not tested again until a file changes or the shared data is elsewhere, comes or goes (--force does).
set -euo pipefail
cd "$(dirname "$0")/.."
: "${EIGSVC_SHARED_DIR:?run this through make test}"
stamp=build/.tests-passed
# What a pass without the shared data has skipped, it says nothing of.
shared=$([ -f "$EIGSVC_SHARED_DIR/data/PROVENANCE.md" ] && echo there || echo missing)
files=$(git ls-files -co --exclude-standard -z | sort -z | xargs -0 sha256sum 2>/dev/null | sha256sum)
tree=$(echo "$files $EIGSVC_SHARED_DIR $shared" | sha256sum | cut -c1-64)
if [ "${1:-}" != --force ] && [ "$(head -n 1 $stamp 2>/dev/null)" = "$tree" ]; then
  echo "nothing changed since these tests passed (make test FORCE=1 runs them again):"
  tail -n +2 $stamp
  exit 0
fi

started=$SECONDS
deploy/configure.sh build dev
ninja -C build --quiet
echo "build: $((SECONDS - started)) s"
tests/lint.sh
results=build/test-results.txt
status=0
ctest --test-dir build -LE 'full|gpu' -j2 --output-on-failure --no-tests=error >$results 2>&1 || status=$?
cases=build/Testing/Temporary/LastTest.log
grep -vE '^ *Start ' $results || true
# Cases of the binaries, then tests of ctest that skipped themselves as a whole.
counted=$({ grep -hoE '^\[ +(PASSED|SKIPPED) +\] [0-9]+ tests?' $cases || true; } |
  awk -v whole="$(grep -cE '\*\*\*(Skipped|Not Run)' $results)" '{n[$2] += $(NF - 1)}
    END {print n["PASSED"] + 0, "cases passed,", n["SKIPPED"] + 0, "cases and", whole, "whole tests skipped"}')
echo "$counted"
[ $status = 0 ] || exit $status
if [ -n "${EIGSVC_CI:-}" ] && tests/skipped.sh $cases $results; then
  echo "error: tests were skipped (above); CI runs all of them" >&2
  exit 1
fi
deploy/configure.sh build-fuzz fuzz
ninja -C build-fuzz --quiet
fuzzed=$(tests/fuzz/run.sh 20) || { echo "$fuzzed"; exit 1; }
echo "$fuzzed"
{ echo "$tree"; grep -E 'tests passed|tests failed' $results; echo "$counted"; echo "shared data: $shared"; echo "$fuzzed"; } >$stamp
echo "all in $((SECONDS - started)) s"
