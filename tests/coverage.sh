#!/usr/bin/env bash
# Says which lines of policy, target parsing and ledger the unit tests run. Needs LLVM's tools, of the version that the
# compiler is built with or newer: rustup's component llvm-tools, or the system's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v cargo-llvm-cov >/dev/null || cargo install cargo-llvm-cov --version 0.9.1 --locked

major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
if ! compgen -G "$(rustc --print sysroot)/lib/rustlib/*/bin/llvm-profdata" >/dev/null; then
    LLVM_COV=$(command -v "llvm-cov-$major") && LLVM_PROFDATA=$(command -v "llvm-profdata-$major") || {
        printf 'coverage: there are no tools of LLVM %s; install the package llvm-%s, or: rustup component add llvm-tools\n' "$major" "$major" >&2
        exit 1
    }
    export LLVM_COV LLVM_PROFDATA
fi
cargo llvm-cov --locked --lib --ignore-filename-regex '/(tests|outside|conformance)\b|/src/(cli|server|sandbox|telemetry|config|resolver|upstream|rate|identity|tasks|problem|main|failpoint)\b' "$@"
