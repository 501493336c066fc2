#!/bin/sh
# Builds the engine a second time, with the places at which the kill tests end the process (feature crash-points), and
# puts it where the tests look for it. Only the workspace's own crates are compiled again; RocksDB is not.
set -eu
engine=$(cd "$(dirname "$0")/../engine" && pwd)
target=${CARGO_TARGET_DIR:-$engine/target}
out=${STREAMJOB_CRASH_ENGINE:-$target/crash-engine}
# As the wheel's build has it: else PyO3 would be compiled anew each time the two take turns.
export PYO3_BUILD_EXTENSION_MODULE=1
cd "$engine"
# The whole workspace, so that features of dependencies are those of the usual build.
cargo build --release --workspace --features streamjob-node/crash-points "$@"
mkdir -p "$out"
# A process may have the old one mapped: it keeps its file, the new one takes the name.
# Without its debug information it is a twentieth as large.
strip --strip-debug -o "$out/.new.so" "$target/release/libstreamjob_engine.so"
mv -f "$out/.new.so" "$out/streamjob_engine.abi3.so"
echo "$out"
