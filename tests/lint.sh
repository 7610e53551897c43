#!/usr/bin/env bash
# Proto rules (buf), style (clang-format), the image's recipe (hadolint), Prometheus rules (promtool); with --tidy also clang-tidy over the compiled sources.
set -euo pipefail
cd "$(dirname "$0")/.."
(cd proto && "${BUF:?run this through make lint}" lint)
git ls-files '*.cc' '*.h' | xargs clang-format-14 --dry-run --Werror
"$(dirname "${EIGSVC_ORACLE_PYTHON:?run this through make lint}")/hadolint" Dockerfile
promtool test rules deploy/prometheus/tests.yml >/dev/null || promtool test rules deploy/prometheus/tests.yml
if [ "${1:-}" = --tidy ]; then
  git ls-files '*.cc' | grep -v '^tests/' | xargs -P 2 -n 8 clang-tidy-14 -p build --quiet
fi
echo "lint: ok"
