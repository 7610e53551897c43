#!/usr/bin/env bash
# Gathers what the image holds: the three programs and every shared library that they load and glibc's packages do not
# bring, stripped.
#   deploy/image/package.sh BUILD_DIR DESTINATION     fills DESTINATION/bin and DESTINATION/lib
set -euo pipefail
build=${1:?usage: package.sh BUILD_DIR DESTINATION} destination=${2:?usage: package.sh BUILD_DIR DESTINATION}
programs=(eigsvc eigsvcd eigsvc-worker)
mkdir -p "$destination/bin" "$destination/lib"
for program in "${programs[@]}"; do
  [ -x "$build/bin/$program" ] || { echo "package: error: no $build/bin/$program; run make build first" >&2; exit 1; }
  install -m 0755 "$build/bin/$program" "$destination/bin/$program"
done

# glibc's own come with the base image, and must: they belong to its loader.
of_glibc='^(ld-linux.*|libc|libm|libdl|libpthread|librt|libresolv|libutil|libmvec|libanl|libnss_.*)\.so'
missing=$(ldd "${programs[@]/#/$build/bin/}" | awk '/not found/ {print $1}' | sort -u)
[ -z "$missing" ] || { echo "package: error: libraries that are not to be found: $missing" >&2; exit 1; }
libraries() { ldd "$@" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// {print $1, $3}' | sort -u; }
# What LibTorch opens by name at run time lies beside what is linked: a CUDA build's device half.
torch=$(dirname "$(libraries "$build/bin/eigsvc-worker" | awk '$1 ~ /^libc10\.so/ {print $2}')")
extra=()
[ ! -e "$torch/libtorch_cuda.so" ] || extra+=("$torch/libtorch_cuda.so" "$torch/libc10_cuda.so" "$torch/libtorch.so")
{ libraries "${programs[@]/#/$build/bin/}" "${extra[@]}"
  for library in "${extra[@]}"; do echo "$(basename "$library") $library"; done; } | sort -u |
while read -r name path; do
  [[ $name =~ $of_glibc ]] || install -m 0644 "$(readlink -f "$path")" "$destination/lib/$name"
done
strip --strip-unneeded "$destination"/bin/* "$destination"/lib/*
du -sh "$destination" | awk '{print "packaged " $1}'
