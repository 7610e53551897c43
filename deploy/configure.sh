#!/usr/bin/env bash
# Configures a build directory where that is due: the first time, and where the shared test data is looked for elsewhere than
# before, as the tests have its path built in. Changed lists CMake notices by itself. Quiet unless it fails.
#   configure.sh BUILD_DIR PRESET    EIGSVC_SHARED_DIR: the folder of that data (default ../shared)
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:?} preset=${2:?}
shared=$(realpath -ms "${EIGSVC_SHARED_DIR:-../shared}")  # as CMake writes it
configured=$(sed -n 's/^EIGSVC_SHARED_DIR:[A-Z]*=//p' "$build/CMakeCache.txt" 2>/dev/null || true)
if [ -f "$build/build.ninja" ] && [ "$configured" = "$shared" ]; then exit 0; fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cmake --preset "$preset" -DEIGSVC_SHARED_DIR="$shared" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
