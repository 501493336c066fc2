#!/usr/bin/env bash
# Builds the fuzz targets and runs each for SECONDS_EACH (default 20; 0 only replays the corpus). Needs no nightly toolchain:
# the coverage pass is part of LLVM, and safe Rust finds its mistakes by panics and assertions, without a sanitizer.
#
#   engine/fuzz/run.sh [SECONDS_EACH] [TARGET…]      SEED=1 makes a run repeatable
#
# A crash is written to engine/fuzz/artifacts. Inputs that reach new code are forgotten at the next run, unless KEEP=1 lets
# them add up, beside the build.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-20}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(decode nested avro avro_schema arrow record log job expression rows)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/streamjob/fuzz-target}
host=$(rustc -vV | sed -n 's/^host: //p')

# With --target the flags hold for what runs, not for build scripts, which could not be linked with them.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
bins=()
for target in "${targets[@]}"; do bins+=(--bin "$target"); done
cargo build --quiet --locked --release --target "$host" "${bins[@]}"

mkdir -p artifacts
passed=0 failed=0
for target in "${targets[@]}"; do
    found=$CARGO_TARGET_DIR/corpus/$target
    log=$CARGO_TARGET_DIR/$target.log
    [ "${KEEP:-}" = 1 ] || rm -rf "$found"
    mkdir -p "$found"
    options=(-max_len=4096 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 "-artifact_prefix=artifacts/$target-")
    case $target in decode | nested | record | rows) options+=(-dict=json.dict) ;; esac
    [ -n "${SEED:-}" ] && options+=("-seed=$SEED")
    if [ "$seconds" = 0 ]; then
        options+=(-runs=0)
        folders=("corpus/$target")
    else
        options+=("-max_total_time=$seconds")
        folders=("$found" "corpus/$target")
    fi
    if "$CARGO_TARGET_DIR/$host/release/$target" "${options[@]}" "${folders[@]}" >"$log" 2>&1; then
        passed=$((passed + 1))
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        coverage=$(grep -o 'cov: [0-9]*' "$log" | tail -1)
        echo "$target: ${runs:-?} runs, ${coverage:-no coverage}"
    else
        failed=$((failed + 1))
        echo "$target: FAILED; the end of $log:"
        grep -v '^#' "$log" | grep -v '^stat::' | tail -40 | sed 's/^/    /'
        reproducer=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
        echo "$target: reproducer: $PWD/${reproducer:-none was written}"
        echo "$target: again with: $CARGO_TARGET_DIR/$host/release/$target $PWD/${reproducer}"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
