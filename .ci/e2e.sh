#!/usr/bin/env bash
# e2e/ on a kind cluster of its own in the lab of ../shared/cluster, with the engine of dist/engine. `.ci/e2e.sh --if-built`
# runs only where the lab's programs have been compiled already, which takes half an hour, and begins no test after 15
# minutes; nothing of the project takes part in bringing the lab up, so that a machine that cannot is named then, and no
# failure. ENGINE=compile compiles the engine in its image, as whoever calls `docker build` does: another half an hour.
set -euo pipefail
cd "$(dirname "$0")/.."

lab=$PWD/../shared/cluster
export CLUSTER=${STREAMJOB_E2E_CLUSTER:-streamjob-e2e}
up_within=40m # the first time its programs are compiled
up() { timeout "$up_within" "$lab/$1" "${@:2}" >>"$log" 2>&1 || { tail -20 "$log"; return 1; }; }
unable=1
cannot() { echo "e2e: NOT RUN. This machine cannot run the lab: $1"; exit "$unable"; }

if [ ! -d "$lab" ]; then echo "e2e: NOT RUN. There is no ../shared/cluster here; \`make e2e\` needs kind instead"; exit 0; fi
built() { (. "$lab/env.sh" && [ -e "$BIN/.k8s-$K8S_VERSION" ] && [ -e "$BIN/.helm-$HELM_VERSION" ] && [ -e "$BIN/.kind-$KIND_VERSION" ]); }
if [ "${1:-}" = --if-built ]; then
    shift
    unable=0
    export STREAMJOB_E2E_BUDGET_S=${STREAMJOB_E2E_BUDGET_S:-900}
    built || { echo "e2e: NOT RUN. The lab's programs are not compiled here; STREAMJOB_CI_E2E=1 compiles them"; exit 0; }
fi
if [ "$(id -u)" != 0 ]; then cannot "it needs root"; fi
unshare --net --mount true 2>/dev/null || cannot "network namespaces are not permitted"
engine=(--build-arg ENGINE=wheel --build-arg RUST_IMAGE=python:3.12-slim)
if [ "${ENGINE:-wheel}" = compile ]; then
    engine=(--build-arg ENGINE=compile)
else
    ls dist/engine/*.whl >/dev/null || { echo "e2e: dist/engine holds no wheel: make wheels" >&2; exit 1; }
fi

work=$(mktemp -d)
log=$work/lab.log
export KUBECONFIG=$work/kubeconfig
running=$("$lab/in-lab.sh" docker version >/dev/null 2>&1 && echo yes || true)
finish() {
    CLUSTER=$CLUSTER "$lab/down.sh" $([ -n "$running" ] || echo --all) >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT

up packages.sh || cannot "packages.sh has failed"
up build-k8s.sh || cannot "build-k8s.sh has failed"
up build-tools.sh kind etcd containerd coredns local-path-provisioner helm own || cannot "build-tools.sh has failed"
up docker-up.sh || cannot "docker does not start"
up images.sh || cannot "images.sh has failed"
up up.sh "$CLUSTER" || cannot "the cluster does not come up"

echo "e2e: building the images"
"$lab/image.sh" streamjob-operator:e2e . -f Dockerfile.operator
if [ "${ENGINE:-wheel}" = compile ]; then .ci/rust-image.sh; fi
"$lab/image.sh" streamjob-engine:e2e . -f Dockerfile.engine "${engine[@]}"
"$lab/in-lab.sh" .venv/bin/python -m pytest -q --durations=15 e2e "$@"
