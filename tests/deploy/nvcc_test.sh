#!/usr/bin/env bash
# When deploy/nvcc.sh installs a compiler: only for a CUDA build of LibTorch whose nvcc the machine has not, and once. Torch,
# pip and nvcc are stand-ins; NVIDIA's own are tried by nvcc_wheels_test.sh.
#   nvcc_test.sh SOURCE_DIR
set -euo pipefail
source=${1:?}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/site/torch"
touch "$root/installed"
touch "$root/site/torch/__init__.py"
cat >"$root/python" <<PYTHON
#!/usr/bin/env bash
if [ "\$1 \$2" = "-m pip" ]; then
  echo "\$*" >>"$root/installed"
  mkdir -p "$root/site/nvidia/cu13/lib"
  exit
fi
exec env PYTHONPATH="$root/site" python3 "\$@"
PYTHON
printf '#!/bin/sh\necho "Cuda compilation tools, release $(cat %s/release), V1"\n' "$root" >"$root/bin/nvcc"
chmod +x "$root/python" "$root/bin/nvcc"
run() {  # run TORCH_CUDA NVCC_RELEASE INSTALLATIONS_SO_FAR
  echo "cuda = $1" >"$root/site/torch/version.py"
  echo "$2" >"$root/release"
  PATH="$root/bin:$PATH" "$source/deploy/nvcc.sh" "$root/python" 2>"$root/said"
  local installed; installed=$(cat "$root/installed" | wc -l)
  [ "$installed" = "$3" ] || { echo "CUDA $1, nvcc $2: installed $installed times, not $3: $(cat "$root/said")"; exit 1; }
}
run None 11.8 0
[ ! -s "$root/said" ] || { echo "of a build for the CPU it says $(cat "$root/said")"; exit 1; }
run "'13.0'" 13.0 0
[ ! -s "$root/said" ] || { echo "of a machine with nvcc it says $(cat "$root/said")"; exit 1; }
run "'12.6'" 13.0 0
grep -q "no nvcc of it" "$root/said" || { echo "of another CUDA it says $(cat "$root/said")"; exit 1; }
run "'13.0'" 11.8 1
grep -q -- "--no-deps -r $source/deploy/requirements/nvcc.txt" "$root/installed" || { cat "$root/installed"; exit 1; }
[ "$(readlink "$root/site/nvidia/cu13/lib64")" = lib ] || { echo "no lib64"; exit 1; }
run "'13.0'" 11.8 1
[ ! -s "$root/said" ] || { echo "when nothing is to do it says $(cat "$root/said")"; exit 1; }
