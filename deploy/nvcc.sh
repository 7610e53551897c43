#!/usr/bin/env bash
# Gives a CUDA build of LibTorch the nvcc that models/kernels/*.cu are compiled with, where the machine has none of its
# version: NVIDIA's wheels, which come to lie beside the CUDA libraries of LibTorch's own wheel, where CMake looks
# (deploy/cmake/EigsvcTorch.cmake). Idempotent, and quiet when nothing is to do; for a build for the CPU nothing is.
#
#   deploy/nvcc.sh PYTHON      of an environment that may be added to
set -euo pipefail
python=${1:?usage: nvcc.sh PYTHON}
requirements=$(cd "$(dirname "$0")" && pwd)/requirements/nvcc.txt

{ read -r site; read -r cuda; } < <("$python" -c '
import importlib.util, os, runpy
torch = importlib.util.find_spec("torch").submodule_search_locations[0]
print(os.path.dirname(torch))
print(runpy.run_path(f"{torch}/version.py")["cuda"] or "")')
[ -n "$cuda" ] || exit 0
if nvcc --version 2>/dev/null | grep -qF "release $cuda,"; then exit 0; fi
if ! grep -q "^nvidia-cuda-nvcc==$cuda\." "$requirements"; then
  echo "setup: LibTorch's CUDA is $cuda; where no nvcc of it is on the PATH, models/kernels/*.cu are left out" >&2
  exit 0
fi
toolkit=$site/nvidia/cu${cuda%%.*}
[ ! -e "$toolkit/lib64" ] || exit 0  # made last
echo "setup: installing nvcc $cuda beside LibTorch" >&2
"$python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$requirements" 2>&1 | { grep -v '^WARNING' || true; } >&2 ||
  { echo "setup: error: pip could not install $requirements; check the package index and run again" >&2; exit 1; }
# As a linker looks for them.
ln -sf "libcudart.so.${cuda%%.*}" "$toolkit/lib/libcudart.so"
ln -s lib "$toolkit/lib64"
