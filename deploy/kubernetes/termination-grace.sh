#!/usr/bin/env bash
# Writes base/termination-grace.yaml from the drain that base/settings.env sets; run it after a change there.
set -euo pipefail
base=$(cd "$(dirname "$0")/base" && pwd)
ending=15  # seconds that the daemon may take to end its workers after the drain

seconds() {  # seconds VARIABLE: of settings.env, rounded up
  local value; value=$(sed -n "s/^$1=//p" "$base/settings.env")
  case $value in
    *[0-9]ms) echo $(((${value%ms} + 999) / 1000)) ;;
    *[0-9]s) echo "${value%s}" ;;
    *[0-9]m) echo $((${value%m} * 60)) ;;
    *[0-9]h) echo $((${value%h} * 3600)) ;;
    *) echo "termination-grace: error: $1 of settings.env is '$value': write a whole number of ms, s, m or h" >&2; return 1 ;;
  esac
}
lame_duck=$(seconds EIGSVC_LAME_DUCK)
drain=$(seconds EIGSVC_DRAIN_TIMEOUT)
cat >"$base/termination-grace.yaml" <<PATCH
# Written by ../termination-grace.sh: EIGSVC_LAME_DUCK + EIGSVC_DRAIN_TIMEOUT + $ending s to end the workers.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: eigsvc
spec:
  template:
    spec:
      terminationGracePeriodSeconds: $((lame_duck + drain + ending))
PATCH
