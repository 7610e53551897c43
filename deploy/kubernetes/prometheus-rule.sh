#!/usr/bin/env bash
# deploy/prometheus/rules.yml as the Prometheus operator's resource, on stdout: kustomize cannot put one file into another.
set -euo pipefail
cat <<'HEAD'
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: eigsvc, namespace: eigsvc, labels: {app.kubernetes.io/part-of: eigsvc}}
spec:
HEAD
sed 's/^/  /' "$(dirname "$0")/../prometheus/rules.yml"
