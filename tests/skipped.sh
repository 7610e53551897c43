#!/usr/bin/env bash
# Prints the tests that were skipped; fails where none was. Cases of a binary show in its own output; a whole test that skips
# itself only in ctest's lines: LastTest.log says "Test Passed." of it.
#   skipped.sh LAST_TEST_LOG CTEST_OUTPUT
found=$(grep -hE '^\[  SKIPPED \]|\*\*\*(Skipped|Not Run)|\((Skipped|Not Run|Disabled)\)' "$1" "$2") && echo "$found"
