#!/usr/bin/env bash
# How long the commands take that ask a ledger of ENTRIES entries (1,000,000 by default), from the start of the
# process to its end, with nothing cached but what the kernel caches; and what filling it cost.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
entries=${ENTRIES:-1000000} rounds=${ROUNDS:-21}
cargo build --release --locked --quiet --bin wasend-gateway --example fill
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
printf '[ledger]\npath = "ledger"\n' > "$folder/gateway.toml"
target/release/examples/fill "$folder/ledger" "$entries"
du -h "$folder"/ledger/ledger.db "$folder"/ledger/search.db
python3 - "$folder/gateway.toml" "$rounds" << 'PYTHON'
import json, statistics, subprocess, sys, time
config, rounds = sys.argv[1], int(sys.argv[2])
def audit(*arguments):
    began = time.perf_counter()
    done = subprocess.run(["target/release/wasend-gateway", "audit", *arguments, "--config", config, "--json"], capture_output=True, text=True)
    return (time.perf_counter() - began) * 1e3, done.stdout.splitlines()
oldest = json.loads(audit("search", "--before", "1000", "--limit", "1")[1][0])
for name, arguments in {
    "a rare group": ["search", "--group", oldest["group"]],
    "a caller": ["search", "--caller", "caller7"],
    "a caller in a session, refused": ["search", "--caller", "caller7", "--session", "session3", "--outcome", "refused"],
    "a request id, as old as the ledger": ["search", "--request-id", oldest["request_id"]],
    "show it": ["show", oldest["request_id"]],
    "unknown outcomes": ["search", "--outcome", "unknown"],
    "open": ["search", "--open"],
    "nothing found": ["search", "--group", "no-such-group"],
    "nothing asked: the newest": ["search"],
    "a page in the middle": ["search", "--before", str(oldest["seq"] + 400000)],
    "stats": ["stats"],
}.items():
    times, lines = zip(*(audit(*arguments) for _ in range(rounds)))
    print(f"{name:36} median {statistics.median(times):6.1f} ms   slowest {max(times):6.1f} ms   {len(lines[0])} lines")
PYTHON
