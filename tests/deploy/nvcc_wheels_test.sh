#!/usr/bin/env bash
# A build finds and uses NVIDIA's wheels of nvcc: installs them by deploy/nvcc.sh beside a copy of LibTorch that says to be a CUDA
# build, on a PATH without nvcc, and compiles models/kernels/*.cu there. Takes 110 MB from the package index; 77 where it cannot.
#   nvcc_wheels_test.sh SOURCE_DIR TORCH_PYTHON
set -euo pipefail
source=${1:?} python=${2:?}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
python3 -m venv "$root/venv"
site=$("$root/venv/bin/python3" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
torch=$("$python" -c 'from importlib.util import find_spec as f; print(f("torch").submodule_search_locations[0])')
mkdir "$site/torch"
ln -s "$torch/include" "$torch/lib" "$site/torch/"
ln -s "$torch"-*.dist-info "$site/"
touch "$site/torch/__init__.py"
echo "cuda = '13.0'" >"$site/torch/version.py"

# Every command but nvcc.
mkdir "$root/bin"
(IFS=:; for folder in $PATH; do
  for command in "$folder"/*; do [ "$(basename "$command")" = nvcc ] || ln -s "$command" "$root/bin/" 2>/dev/null || true; done
done)
export PATH=$root/bin
unset CUDACXX CUDA_PATH CUDA_HOME
if command -v nvcc; then echo "there is an nvcc on the PATH still"; exit 1; fi
if ! "$source/deploy/nvcc.sh" "$root/venv/bin/python3"; then
  if "$root/venv/bin/python3" -m pip index versions nvidia-cuda-nvcc >/dev/null 2>&1; then exit 1; fi
  echo "the package index is not there or has no nvcc: models/kernels/*.cu were not compiled"
  exit 77
fi
cmake -S "$source" -B "$root/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
  -DEIGSVC_PYTHON="$root/venv/bin/python3" >"$root/log" 2>&1 || { tail -n 30 "$root/log"; exit 1; }
used=$(sed -n 's/^CMAKE_CUDA_COMPILER:.*=//p' "$root/build/CMakeCache.txt")
[ "$used" = "$site/nvidia/cu13/bin/nvcc" ] || { echo "CMake took '$used'"; exit 1; }
cmake --build "$root/build" --target eigsvc_kernels_cuda >"$root/log" 2>&1 || { tail -n 30 "$root/log"; exit 1; }
for object in "$root"/build/models/kernels/CMakeFiles/eigsvc_kernels_cuda.dir/*.cu.o; do
  for architecture in sm_80 sm_90; do
    LC_ALL=C grep -aq "$architecture" "$object" || { echo "$(basename "$object") has nothing for $architecture"; exit 1; }
  done
done
objects=("$root"/build/models/kernels/CMakeFiles/eigsvc_kernels_cuda.dir/*.cu.o) sources=("$source"/models/kernels/*.cu)
echo "${#objects[@]} kernels' objects of ${#sources[@]} sources by $("$used" --version | grep release)"
[ "${#objects[@]}" = "${#sources[@]}" ]
