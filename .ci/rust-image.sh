#!/usr/bin/env bash
# rust:1-slim for the builder of the lab, as no registry gives it here: the lab's Debian with a C compiler, as in the real
# one, and this machine's own toolchain. Nothing else is in it, so that Dockerfile.engine shows what it needs.
set -euo pipefail

tag=docker.io/library/rust:1-slim
if buildah inspect --type image "$tag" >/dev/null 2>&1; then exit; fi
toolchain=$(rustc --print sysroot)
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir -p "$context/toolchain/lib" "$context/toolchain/bin"
cp "$toolchain"/bin/{cargo,rustc} "$context/toolchain/bin/"
cp -r "$toolchain"/lib/*.so* "$toolchain/lib/rustlib" "$context/toolchain/lib/"
cat >"$context/Dockerfile" <<'D'
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY toolchain /usr/local/toolchain
ENV CARGO_HOME=/usr/local/cargo PATH=/usr/local/toolchain/bin:$PATH
RUN rustc --version && cargo --version
D
buildah bud -q --isolation chroot --network host --pull=false --layers -t "$tag" "$context" >/dev/null
