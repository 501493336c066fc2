#!/usr/bin/env bash
# Builds both images, loads them into a kind cluster and runs these tests there; what is given goes to pytest.
# STREAMJOB_E2E_CLUSTER names the cluster: one that is there is used and left, else it is made and deleted again.
# ENGINE=wheel takes dist/engine/*.whl into the image instead of compiling in it.
set -euo pipefail
cd "$(dirname "$0")/.."

cluster=${STREAMJOB_E2E_CLUSTER:-streamjob-e2e}
operator=${STREAMJOB_E2E_OPERATOR_IMAGE:-streamjob-operator:e2e}
engine=${STREAMJOB_E2E_ENGINE_IMAGE:-streamjob-engine:e2e}

for program in kind docker helm kubectl; do
    command -v "$program" >/dev/null || { echo "e2e: $program is not in the PATH; these tests need kind, docker, helm and kubectl" >&2; exit 1; }
done

echo "e2e: building the images" >&2
docker build --quiet -f Dockerfile.operator -t "$operator" . >&2
docker build --quiet -f Dockerfile.engine --build-arg ENGINE="${ENGINE:-compile}" -t "$engine" . >&2

KUBECONFIG=$(mktemp)
export KUBECONFIG
made=
finish() {
    if [ -n "$made" ]; then kind delete cluster --name "$cluster" >&2; fi
    rm -f "$KUBECONFIG"
}
trap finish EXIT
if kind get clusters 2>/dev/null | grep -qx "$cluster"; then
    kind export kubeconfig --name "$cluster" >&2
else
    made=1
    kind create cluster --name "$cluster" --wait 180s >&2
fi
kind load docker-image --name "$cluster" "$operator" "$engine" >&2

STREAMJOB_E2E_OPERATOR_IMAGE=$operator STREAMJOB_E2E_ENGINE_IMAGE=$engine .venv/bin/python -m pytest -q e2e "$@"
