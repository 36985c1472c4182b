#!/usr/bin/env bash
# Builds the fuzz targets and runs them:
#   fuzz/run.sh fixed [COUNT]               COUNT inputs a target (20,000), the same each time: what CI does
#   fuzz/run.sh long [SECONDS] [TARGET …]   libFuzzer, guided by coverage, for SECONDS a target (600)
# `long` keeps what it learns in target/fuzz/corpus, and what it finds in target/fuzz/found. Stable Rust does: the
# coverage is an option of LLVM's. There is no sanitizer, since there is no unsafe code of ours.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
readonly mode=${1:-fixed}
shift || true
TMPDIR=$(mktemp -d -p /dev/shm 2> /dev/null || mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

case $mode in
    fixed)
        # Into the tests' target folder, with their profile: libFuzzer's targets too, so that they stay whole.
        cargo build --locked --bins --target-dir ../target
        ../target/debug/fixed "${1:-20000}"
        ;;
    long)
        readonly seconds=${1:-600}
        shift || true
        flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
        for part in inline-8bit-counters pc-table trace-compares; do
            flags+=" -Cllvm-args=-sanitizer-coverage-$part"
        done
        host=$(rustc -vV | sed -n 's/^host: //p')
        # With --target the flags are not for build scripts.
        RUSTFLAGS="$flags --cfg fuzzing" cargo build --locked --release --bins --target "$host" --target-dir ../target/fuzz
        built=../target/fuzz/$host/release
        [ $# -gt 0 ] || set -- files records requests retry_after targets
        for target in "$@"; do
            corpus=../target/fuzz/corpus/$target
            mkdir -p "$corpus" ../target/fuzz/found
            "$built/seeds" "$target" "$corpus"
            echo "fuzzing $target for $seconds s"
            "$built/$target" -max_total_time="$seconds" -max_len=20000 -timeout=25 -print_final_stats=1 \
                -dict=dictionary.txt -artifact_prefix="../target/fuzz/found/$target-" "$corpus"
        done
        ;;
    *)
        sed -n '2,4p' "$0" >&2
        exit 64
        ;;
esac
