#!/usr/bin/env bash
# Requests per second and CPU time per request, all in one run, three times in turn: straight to a provider
# that does nothing, through an axum + reqwest proxy without a ledger, and through the gateway, durable.
# Look at the ratios: machines differ, and noise hits all three alike. Load is bounded (-t/-c/-d below).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${SECONDS_EACH:-5} connections=${CONNECTIONS:-64} rounds=${ROUNDS:-3}
token=obviously-fake-token

. benches/common.sh
need wrk
cargo build --release --locked --quiet --bin wasend-gateway --example reference --example provider

folder=$(mktemp -d)
pids=()
finish() { for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done; rm -rf "$folder"; }
trap finish EXIT
provider_port=$(free_port) reference_port=$(free_port)
target/release/examples/provider "127.0.0.1:$provider_port" & provider=$! pids+=($!)
target/release/examples/reference "127.0.0.1:$reference_port" "http://127.0.0.1:$provider_port" obviously-fake-key & reference=$! pids+=($!)
configure "$provider_port" < /dev/null
target/release/wasend-gateway serve --config "$folder/gateway.toml" > "$folder/ready" 2> "$folder/log" & gateway=$! pids+=($!)
gateway_port=$(ready)
echo "start: ready; idle memory $(awk '/VmRSS/ { printf "%.1f MiB", $2 / 1024 }' "/proc/$gateway/status"); binary $(stat -c %s target/release/wasend-gateway | awk '{ printf "%.1f MB", $1 / 1e6 }')"

ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
measure() { # name pid port
    local before after line
    before=$(ticks "$2")
    line=$(wrk -t1 -c"$connections" -d"${seconds}s" --latency -s benches/delete.lua "http://127.0.0.1:$3" -- "$token")
    after=$(ticks "$2")
    awk -v name="$1" -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" '
        /requests in/ { count = $1 } /Requests\/sec/ { rate = $2 } /50%/ { p50 = $2 } /99%/ { p99 = $2 } /Non-2xx/ { bad = $NF }
        END { printf "%-10s %9.0f requests/s %7.1f us CPU/request   p50 %-8s p99 %-8s not 2xx: %d\n", name, rate, ticks / hz * 1e6 / count, p50, p99, bad }' <<< "$line"
}
for _ in $(seq "$rounds"); do
    measure direct "$provider" "$provider_port"
    measure reference "$reference" "$reference_port"
    measure gateway "$gateway" "$gateway_port"
done
