#!/usr/bin/env bash
# `make demo`: starts a daemon, analyses the included trained Mamba-2 and its untrained twin on MQAR, shows both, stops.
#   deploy/demo/demo.sh BIN_DIR [EIGSVC_ANALYZE_FLAG ...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=$(cd "$1" && pwd); shift
cd "$here/../.."
work=$(mktemp -d)
mkfifo "$work/ready"
"$bin/eigsvcd" --listen=unix:"$work/socket" --http-listen "" --state-dir="$work/state" --lame-duck=0s \
  >"$work/ready" 2>"$work/log" &
daemon=$!
trap 'kill $daemon 2>/dev/null || true; wait $daemon 2>/dev/null || true; rm -rf "$work"' EXIT
read -r -t 30 _ <"$work/ready" || { cat "$work/log" >&2; echo "demo: error: the daemon did not start (its log is above)" >&2; exit 1; }
echo "\$ eigsvcd --listen=unix:$work/socket &"
echo "\$ eigsvc analyze --checkpoint deploy/demo/mamba2.pt --task mqar --examples 3000 --compare-twin 1"
"$bin/eigsvc" --server "unix:$work/socket" analyze --checkpoint deploy/demo/mamba2.pt --task mqar --examples 3000 \
  --compare-twin 1 "$@"
