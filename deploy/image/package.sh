#!/usr/bin/env bash
# Gathers what the image holds: the three programs and every shared library that they load and glibc's packages do not
# bring, stripped.
#   deploy/image/package.sh BUILD_DIR DESTINATION     fills DESTINATION/bin and DESTINATION/lib
#
# Linked libraries are asked of the loader (ldd). LibTorch's CUDA half and NVIDIA's libraries open others by name when they
# first need them: cuDNN its parts, cuBLAS nvrtc, nvrtc its built-ins. So each of theirs is searched for names of libraries,
# and those that lie in the wheels' folders come along.
set -euo pipefail
build=${1:?usage: package.sh BUILD_DIR DESTINATION} destination=${2:?usage: package.sh BUILD_DIR DESTINATION}
programs=(eigsvc eigsvcd eigsvc-worker)
mkdir -p "$destination/bin" "$destination/lib"
for program in "${programs[@]}"; do
  [ -x "$build/bin/$program" ] || { echo "package: error: no $build/bin/$program; run make build first" >&2; exit 1; }
  install -m 0755 "$build/bin/$program" "$destination/bin/$program"
done

# glibc's own come with the base image, and must: they belong to its loader. The driver's come with the container runtime.
of_glibc='^(ld-linux.*|libc|libm|libdl|libpthread|librt|libresolv|libutil|libmvec|libanl|libnss_.*)\.so'
of_driver='^lib(cuda|nvidia-.*)\.so'
# Of what is opened by name: counters of the profiler, and files over RDMA, which needs libraries of its own.
unneeded='^lib(nvperf_.*|cufile_rdma)\.so'

declare -A path=()  # by name, of all that is packaged
waiting=("${programs[@]/#/$build/bin/}")
add() {  # add NAME PATH
  if [[ $1 =~ $of_glibc || -n ${path[$1]:-} ]]; then return; fi
  path[$1]=$(readlink -f "$2")
  waiting+=("${path[$1]}")
}
linked() {  # linked FILE: adds what the loader finds for it
  local name arrow found rest
  while read -r name arrow found rest; do
    [ "$arrow" = "=>" ] || continue
    if [ "$found" != not ]; then
      add "$name" "$found"
    elif ! [[ $name =~ $of_driver ]]; then
      echo "package: error: $1 needs $name, which is not to be found" >&2
      exit 1
    fi
  done < <(LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$search ldd "$1")
}
opened() {  # opened FILE: adds what it names and the wheels' folders have; versions may be added at run time
  local name found
  while read -r name; do
    for found in "${shelf[@]/%//$name}"; do
      for found in "$found" "$found".[0-9]*; do
        if [ -f "$found" ] && [ ! -L "$found" ] && ! [[ $name =~ $unneeded ]]; then add "$(basename "$found")" "$found"; fi
      done
    done
  done < <(LC_ALL=C grep -aoE 'lib[A-Za-z0-9_.+-]+\.so(\.[0-9]+)*' "$1" | sort -u)
}

shelf=() search=
torch=$(ldd "$build/bin/eigsvc-worker" | awk '$1 ~ /^libc10\.so/ && $3 ~ /^\// {print $3}')
[ -n "$torch" ] || { echo "package: error: $build/bin/eigsvc-worker finds no LibTorch" >&2; exit 1; }
torch=$(dirname "$(readlink -f "$torch")")
if [ -e "$torch/libtorch_cuda.so" ]; then
  shelf=("$torch")
  for folder in "$(dirname "$(dirname "$torch")")"/nvidia/*/lib; do [ ! -d "$folder" ] || shelf+=("$folder"); done
  search=$(IFS=:; echo "${shelf[*]}")
  for library in "$torch"/lib{torch,torch_cuda*,c10_cuda,caffe2_nvrtc}.so; do
    [ ! -e "$library" ] || add "$(basename "$library")" "$library"
  done
fi
while [ ${#waiting[@]} -gt 0 ]; do
  file=${waiting[0]} waiting=("${waiting[@]:1}")
  linked "$file"
  for folder in "${shelf[@]}"; do
    [ "$(dirname "$file")" != "$folder" ] || opened "$file"
  done
done
for name in "${!path[@]}"; do
  install -m 0644 "${path[$name]}" "$destination/lib/$name"
  # NVIDIA's come stripped.
  case ${path[$name]} in */nvidia/*) ;; *) strip --strip-unneeded "$destination/lib/$name" ;; esac
done
strip --strip-unneeded "$destination"/bin/*
du -sh "$destination" | awk '{print "packaged " $1}'
