#!/usr/bin/env bash
# A test that skips itself fails CI: runs ctest over a project of one such test and asks the condition of tests/run.sh.
#   skips_test.sh SOURCE_DIR
set -euo pipefail
source=${1:?}
project=$(mktemp -d)
trap 'rm -rf "$project"' EXIT
cat >"$project/CMakeLists.txt" <<'LISTS'
cmake_minimum_required(VERSION 3.25)
project(skips LANGUAGES NONE)
enable_testing()
add_test(NAME Passes COMMAND true)
if(SKIP)
  add_test(NAME Skips COMMAND sh -c "echo SKIPPED: no tool; exit 77")
  set_tests_properties(Skips PROPERTIES SKIP_RETURN_CODE 77)
endif()
LISTS
check() {  # check ON|OFF: 0 where tests/run.sh finds skipped tests
  cmake -S "$project" -B "$project/build" -DSKIP="$1" >/dev/null
  ctest --test-dir "$project/build" >"$project/results" 2>&1
  "$source/tests/skipped.sh" "$project/build/Testing/Temporary/LastTest.log" "$project/results" >"$project/said"
}
check ON || { echo "a skipped test went unnoticed:"; cat "$project/results"; exit 1; }
grep -q Skips "$project/said" || { echo "the skipped test is not named"; exit 1; }
! check OFF || { echo "a test that passed counts as skipped:"; cat "$project/said"; exit 1; }
