#!/usr/bin/env bash
# Whether the ledger's size costs anything: at 0 entries and at each of SIZES (1,000,000 and 10,000,000) the CPU time that
# appending STEP more entries takes, how long a start takes until it is ready, and the memory it idles with. Generated
# through the real writer; 10 million entries take about 5 GB of disk.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
sizes=${SIZES:-1000000 10000000} step=${STEP:-200000} starts=${STARTS:-5}
cargo build --release --locked --quiet --bin wasend-gateway --example fill
folder=$(mktemp -d) gateway=
finish() { [ -z "$gateway" ] || kill "$gateway" 2> /dev/null || true; rm -rf "$folder"; }
trap finish EXIT
echo obviously-fake-key > "$folder/key"
cat > "$folder/gateway.toml" << 'TOML'
[listen]
address = "127.0.0.1:0"
[ops]
address = "127.0.0.1:0"
[upstream]
url = "http://127.0.0.1:1"
api_key_file = "key"
[ledger]
path = "ledger"
[resolver]
enabled = false
TOML
now_ms() { echo $(($(date +%s%N) / 1000000)); }
look() { # at so many entries
    local began times=() memory=
    for _ in $(seq "$starts"); do
        : > "$folder/ready"
        began=$(now_ms)
        target/release/wasend-gateway serve --config "$folder/gateway.toml" > "$folder/ready" 2> /dev/null & gateway=$!
        until [ -s "$folder/ready" ]; do sleep 0.001; done
        times+=($(($(now_ms) - began)))
        sleep 0.5
        memory=$(awk '/VmRSS/ { printf "%.1f MiB", $2 / 1024 }' "/proc/$gateway/status")
        kill "$gateway"; wait "$gateway" || true; gateway=
    done
    printf '%10d entries   ready after %s ms   idle %s   appending %d more: ' "$1" "${times[*]}" "$memory" "$step"
    target/release/examples/fill "$folder/ledger" "$step" 2> /dev/null | sed 's/.*; //'
}
mkdir "$folder/ledger"
target/release/examples/fill "$folder/ledger" 1 > /dev/null 2>&1
look 0
have=$step
for size in $sizes; do
    target/release/examples/fill "$folder/ledger" $((size - have)) > /dev/null
    look "$size"
    have=$((size + step))
done
