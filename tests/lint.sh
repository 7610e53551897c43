#!/usr/bin/env bash
# Proto rules (buf), style (clang-format), the image's recipe (hadolint), Prometheus rules (promtool); with --tidy also clang-tidy over
# what is compiled for the CPU but for tests/, which takes half an hour where nothing was looked at before.
set -euo pipefail
cd "$(dirname "$0")/.."
(cd proto && "${BUF:?run this through make lint}" lint)
git ls-files '*.cc' '*.h' | xargs clang-format-14 --dry-run --Werror
"$(dirname "${EIGSVC_ORACLE_PYTHON:?run this through make lint}")/hadolint" Dockerfile
promtool test rules deploy/prometheus/tests.yml >/dev/null || promtool test rules deploy/prometheus/tests.yml
if [ "${1:-}" = --tidy ]; then
  python3 tests/tidy.py build
fi
echo "lint: ok"
