#!/bin/sh
# Dockerfile, Compose, Kubernetes and the workflow, checked without a container engine or a cluster.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv-tools/bin:$PATH"
export PATH

hadolint Dockerfile
docker-compose --env-file .env.example --file compose.yaml config --quiet

rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
kubectl kustomize k8s/base >"$rendered/base.yaml"
kubernetes-validate --strict --quiet "$rendered/base.yaml" k8s/base/secret.example.yaml

# Without the extras that actionlint would take from the machine: the answer must not depend on them.
actionlint -shellcheck= -pyflakes= .github/workflows/*.yml
zizmor --offline --quiet .github/workflows
