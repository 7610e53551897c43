#!/bin/sh
# tests/fuzz/run.sh SECONDS [BUILD_DIR [TARGET ...]]: runs each libFuzzer target, or those named, for SECONDS from its
# committed corpus and prints one line a target. Fails on any finding, whose input it leaves in BUILD_DIR/fuzz-findings. New
# inputs are not kept.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:?usage: tests/fuzz/run.sh SECONDS [BUILD_DIR]}
build=${2:-build-fuzz}
[ $# -lt 2 ] || shift
shift
[ $# -gt 0 ] || set -- safetensors_header zip_directory pickle_machine checkpoint_file reader_answer data_readers requests http_framing
targets=$*
findings=$build/fuzz-findings
mkdir -p "$findings"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# A whole file may be of any format, so its seeds and words are those of the formats as well.
parts() {
  case $1 in
    checkpoint_file) echo checkpoint_file safetensors_header zip_directory pickle_machine ;;
    *) echo "$1" ;;
  esac
}
# What it has to say goes to $scratch/TARGET.out; with a finding there is $scratch/failed.
fuzz() {
  target=$1
  mkdir "$scratch/$target"
  set --
  for part in $(parts "$target"); do
    cat "tests/fuzz/$part.dict" >>"$scratch/$target.dict"
    set -- "$@" "tests/fuzz/corpus/$part"
  done
  # The first folder takes new inputs, the others are only read. -rss_limit_mb: memory is part of what must hold.
  if "$build/bin/fuzz_$target" "$scratch/$target" "$@" -dict="$scratch/$target.dict" \
      -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -max_len=8192 -print_final_stats=1 \
      -artifact_prefix="$findings/$target-" >"$scratch/$target.log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$scratch/$target.log")
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$scratch/$target.log" | tail -1)
    echo "fuzz $target: ${runs:-0} inputs in $seconds s, $edges edges, no finding"
  else
    touch "$scratch/failed"
    echo "fuzz $target: FINDING, input in $findings:"
    grep -E 'ERROR|SUMMARY|runtime error' "$scratch/$target.log" || tail -5 "$scratch/$target.log"
  fi >"$scratch/$target.out"
}
# Two at a time: as many as the smallest machine has cores.
running=
for target in $targets; do
  fuzz "$target" &
  if [ -z "$running" ]; then
    running=$target
    continue
  fi
  wait
  cat "$scratch/$running.out" "$scratch/$target.out"
  running=
done
wait
[ -z "$running" ] || cat "$scratch/$running.out"
[ ! -e "$scratch/failed" ]
