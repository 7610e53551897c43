#!/bin/sh
# tests/fuzz/coverage.sh [SECONDS]: which lines of the readers of weight files the fuzz targets reach, in SECONDS (60) of
# each from its corpus. Prints a table and fails below 85 % of any file.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-60}
build=build-coverage
cmake --preset fuzz -B $build -DEIGSVC_COVERAGE=ON >/dev/null
ninja -C $build --quiet fuzz_safetensors_header fuzz_zip_directory fuzz_pickle_machine fuzz_checkpoint_file \
  fuzz_reader_answer
rm -f $build/*.profraw
LLVM_PROFILE_FILE="$PWD/$build/%p.profraw" tests/fuzz/run.sh "$seconds" $build safetensors_header zip_directory pickle_machine \
  checkpoint_file reader_answer
llvm-profdata-14 merge -sparse $build/*.profraw -o $build/all.profdata
set --
for target in zip_directory pickle_machine checkpoint_file reader_answer; do set -- "$@" -object "$build/bin/fuzz_$target"; done
llvm-cov-14 export -summary-only -instr-profile $build/all.profdata "$build/bin/fuzz_safetensors_header" "$@" \
  models/archive/safetensors.cc models/archive/zip_directory.cc models/archive/pickle_machine.cc \
  models/archive/torch_zip.cc models/archive/contents.cc server/reader/contents_proto.cc |
  python3 -c '
import json, sys
files = json.load(sys.stdin)["data"][0]["files"]
missed = 0
for file in files:
    lines = file["summary"]["lines"]
    missed += lines["percent"] < 85
    print("%-40s %4d of %4d lines, %.1f %%" % (file["filename"].split("/")[-1], lines["covered"], lines["count"], lines["percent"]))
sys.exit(1 if missed or len(files) != 6 else 0)'
