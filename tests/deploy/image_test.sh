#!/usr/bin/env bash
# What the image would hold, without a container engine: the packaged programs in a root of their own, where nothing but
# glibc is beside them, as the image's user, who may write to the state directory and /tmp alone. Runs the demo's
# checkpoint through a daemon there.
#   image_test.sh BUILD_DIR SOURCE_DIR
set -euo pipefail
build=${1:?} source=${2:?}
[ "$(id -u)" = 0 ] || { echo "SKIPPED: changing the root directory needs root"; exit 77; }
root=$(mktemp -d)
chmod 0755 "$root"
daemon=
trap 'kill "$daemon" 2>/dev/null || true; umount -l "$root/proc" "$root/dev" 2>/dev/null || true; rm -rf --one-file-system "$root"' EXIT
"$source/deploy/image/package.sh" "$build" "$root/opt/eigsvc"
# The base image's part: glibc, its loader, name services.
ldd "$build/bin/eigsvc-worker" "$build/bin/eigsvcd" | grep -oE '/[^ ]*/(ld-linux[^ ]*|lib(c|m|dl|pthread|rt|resolv|util|mvec|anl)\.so[^ ]*)' |
  sort -u | while read -r library; do install -D "$(readlink -f "$library")" "$root$library"; done
mkdir -p "$root"/{tmp,var/lib/eigsvc,checkpoints,proc,dev,etc}
chmod 1777 "$root/tmp"
chown 65532:65532 "$root/var/lib/eigsvc"
chmod 0700 "$root/var/lib/eigsvc"
mount --bind /proc "$root/proc" && mount --bind /dev "$root/dev" || { echo "SKIPPED: no mounts in this sandbox"; exit 77; }
cp "$source/deploy/demo/mamba2.pt" "$root/checkpoints/"
inside() { chroot --userspec=65532:65532 "$root" /opt/eigsvc/bin/"$@"; }
export LD_LIBRARY_PATH=/opt/eigsvc/lib HOME=/tmp

inside eigsvcd --listen unix:/tmp/eigsvc.sock --http-listen "" --state-dir /var/lib/eigsvc --checkpoint-root /checkpoints \
  --devices cpu --log-format json 2>"$root/daemon.log" &
daemon=$!
for _ in $(seq 100); do [ -S "$root/tmp/eigsvc.sock" ] && break; sleep 0.1; done
inside eigsvc server info --server unix:/tmp/eigsvc.sock >/dev/null || { cat "$root/daemon.log"; exit 1; }
score=$(inside eigsvc analyze --server unix:/tmp/eigsvc.sock --checkpoint mamba2.pt --task mqar --examples 200 -o json |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["score"]["value"])') || { cat "$root/daemon.log"; exit 1; }
echo "score in the image's root: $score"
python3 -c "import sys; sys.exit(0 if $score > 0.98 else 1)"
# SIGTERM is the image's stop signal; the daemon ends by itself.
kill -TERM "$(pgrep -P "$daemon" eigsvcd || echo "$daemon")"
wait "$daemon" || { echo "the daemon ended with $?"; cat "$root/daemon.log"; exit 1; }
