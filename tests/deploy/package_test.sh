#!/usr/bin/env bash
# What deploy/image/package.sh gathers of a CUDA build: programs and libraries made here, which are linked to one another and
# name one another as those of the wheels do, in the wheels' folders.
#   package_test.sh SOURCE_DIR
set -euo pipefail
source=${1:?}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
site=$root/site-packages torch=$root/site-packages/torch/lib cuda=$root/site-packages/nvidia/cu13/lib
cudnn=$root/site-packages/nvidia/cudnn/lib elsewhere=$root/elsewhere
mkdir -p "$torch" "$cuda" "$cudnn" "$elsewhere" "$root/build/bin"
fail() { echo "$1"; exit 1; }

# library FILE "LINKED ..." "NAMED ...": one that needs some and has the names of others among its strings
library() {
  local named; named=$(printf '"%s",' $3)
  echo "const char* const opened_of_${RANDOM}_$RANDOM[] = {${named}0};" |
    gcc -shared -fPIC -x c - -x none -o "$1" -Wl,-soname,"$(basename "$1")" -Wl,--no-as-needed $2 -Wl,--allow-shlib-undefined \
      -Wl,-rpath,'$ORIGIN:$ORIGIN/../../nvidia/cu13/lib:$ORIGIN/../../nvidia/cudnn/lib' -Wl,-rpath-link,"$cuda:$cudnn:$elsewhere"
}
library "$elsewhere/libcuda.so.1" "" ""
library "$elsewhere/libmlx5.so.1" "" ""
library "$cuda/libcudart.so.13" "" "libcuda.so.1"
library "$cuda/libnvrtc-builtins.so.13.0" "" ""
library "$cuda/libnvrtc.so.13" "" "libnvrtc-builtins.so.13.0 libnvrtc.so.13"
library "$cuda/libcublasLt.so.13" "" "libnvrtc.so.13"
library "$cuda/libcublas.so.13" "$cuda/libcublasLt.so.13" "libcuda.so.1"
library "$cuda/libnvJitLink.so.13" "" ""
library "$cuda/libcusolver.so.12" "$cuda/libcublas.so.13 $cuda/libnvJitLink.so.13" ""
library "$cuda/libnvperf_host.so" "" ""
library "$cuda/libcupti.so.13" "" "libnvperf_host.so libGL.so.1"
library "$cuda/libcufile_rdma.so.1" "$elsewhere/libmlx5.so.1" ""
library "$cuda/libcufile.so.0" "" "libcufile_rdma.so libcufile_rdma.so.1"
library "$cuda/libcurand.so.10" "" ""
library "$cudnn/libcudnn_graph.so.9" "" "libcudnn_engines_precompiled.so libnvrtc.so"
library "$cudnn/libcudnn_ops.so.9" "$cudnn/libcudnn_graph.so.9" ""
library "$cudnn/libcudnn_engines_precompiled.so.9" "$cudnn/libcudnn_graph.so.9" "libcublasLt.so.13"
library "$cudnn/libcudnn_adv.so.9" "$cudnn/libcudnn_ops.so.9" ""
library "$cudnn/libcudnn.so.9" "" "libcudnn_ops.so libcudnn_graph.so"
library "$torch/libc10.so" "" ""
library "$torch/libtorch_cpu.so" "$torch/libc10.so $cuda/libcupti.so.13" "libmkl_avx2.so.2"
library "$torch/libc10_cuda.so" "$torch/libc10.so $cuda/libcudart.so.13" "libnvidia-ml.so.1"
library "$torch/libtorch_cuda.so" \
  "$torch/libtorch_cpu.so $torch/libc10_cuda.so $cudnn/libcudnn.so.9 $cuda/libcublas.so.13 $cuda/libcufile.so.0" ""
library "$torch/libtorch_cuda_linalg.so" "$torch/libtorch_cuda.so $cuda/libcusolver.so.12" ""
library "$torch/libcaffe2_nvrtc.so" "$cuda/libnvrtc.so.13 $elsewhere/libcuda.so.1" ""
library "$torch/libtorch.so" "$torch/libtorch_cpu.so $torch/libtorch_cuda.so" ""
library "$torch/libtorch_python.so" "$torch/libtorch.so" ""
for program in eigsvc eigsvcd; do echo 'int main() {}' | gcc -x c - -o "$root/build/bin/$program"; done
worker() {
  echo 'int main() {}' | gcc -x c - -x none -o "$root/build/bin/eigsvc-worker" -Wl,--no-as-needed "$@" -Wl,-rpath,"$torch" \
    -Wl,-rpath-link,"$torch:$cuda:$cudnn:$elsewhere" -Wl,--allow-shlib-undefined
}
packaged() { "$source/deploy/image/package.sh" "$root/build" "$root/$1" >/dev/null && ls "$root/$1/lib" >"$root/found"; }

worker "$torch/libc10.so" "$torch/libtorch_cpu.so" "$torch/libtorch.so"
packaged whole
sort >"$root/expected" <<'LIBRARIES'
libc10.so
libc10_cuda.so
libcaffe2_nvrtc.so
libcublas.so.13
libcublasLt.so.13
libcudart.so.13
libcudnn.so.9
libcudnn_engines_precompiled.so.9
libcudnn_graph.so.9
libcudnn_ops.so.9
libcufile.so.0
libcupti.so.13
libcusolver.so.12
libnvJitLink.so.13
libnvrtc-builtins.so.13.0
libnvrtc.so.13
libtorch.so
libtorch_cpu.so
libtorch_cuda.so
libtorch_cuda_linalg.so
LIBRARIES
diff "$root/expected" <(sort "$root/found") || fail "the CUDA build's libraries are others (>)"
# They are enough: each finds what it is linked to with no other folder searched, but for the driver's.
for library in "$root"/whole/lib/*; do
  LD_LIBRARY_PATH=$root/whole/lib ldd "$library" | grep 'not found' | grep -v 'libcuda\.so\.1' && fail "of $(basename "$library")"
done

# What is missing is named.
mv "$cuda/libnvJitLink.so.13" "$elsewhere"
if packaged lacking 2>"$root/said"; then fail "a library that is missing goes unnoticed"; fi
grep -q 'needs libnvJitLink.so.13, which is not to be found' "$root/said" || fail "it says: $(cat "$root/said")"

# A build for the CPU: what it is linked to, and nothing that is opened by name.
rm "$torch"/lib{torch_cuda,torch_cuda_linalg,c10_cuda,caffe2_nvrtc,torch}.so
library "$torch/libtorch_cpu.so" "$torch/libc10.so" "libcudnn_adv.so"
worker "$torch/libc10.so" "$torch/libtorch_cpu.so"
packaged cpu
diff <(printf 'libc10.so\nlibtorch_cpu.so\n') "$root/found" || fail "the CPU build's libraries are others (>)"
echo "a CUDA build's $(wc -l <"$root/expected") libraries, a CPU build's 2"
