#!/usr/bin/env bash
# What callers that misbehave cost those who don't: the p99 of good callers alone, and beside each kind of them, in turn,
# all in one run. Look at the ratios: it fails where one of them is above 3. The load has a bounded rate, and everybody
# shares these cores: on a busy machine, with few deletions in a round, they say nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${SECONDS_EACH:-8} connections=${CONNECTIONS:-8} rounds=${ROUNDS:-3} sockets=${SOCKETS:-5000} rate=${RATE:-500}
token=obviously-fake-token

. benches/common.sh
need wrk
need slowhttptest
profile=${PROFILE:-release}
cargo build --profile "$profile" --locked --quiet --bin wasend-gateway --example provider
binaries=target/$profile
[ "$profile" != dev ] || binaries=target/debug

ulimit -n "$(ulimit -Hn)"
folder=$(mktemp -d)
pids=()
finish() { for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done; rm -rf "$folder"; }
trap finish EXIT
provider_port=$(free_port)
"$binaries/examples/provider" "127.0.0.1:$provider_port" & pids+=($!)
# Seats for everybody: with the default, 256 for one address, most of them would be turned away at the door.
configure "$provider_port" << LISTEN
max_connections = $((sockets * 4))
max_connections_per_peer = $((sockets * 4))
LISTEN
"$binaries/wasend-gateway" serve --config "$folder/gateway.toml" > "$folder/ready" 2> "$folder/log" & gateway=$! pids+=($!)
port=$(ready)

beside() { # kind
    case $1 in
        alone) ;;
        slow-*)
            local mode=-H
            [ "$1" != slow-bodies ] || mode=-B
            [ "$1" != slow-readers ] || mode=-X
            slowhttptest "$mode" -c "$sockets" -r $((sockets / 2)) -i 1 -l $((seconds + 4)) -t DELETE -k 5 -w 1 -y 8 -p 10 \
                -u "http://127.0.0.1:$port/sess1/groups/1@g.us/picture" > /dev/null 2>&1 & noise=$! ;;
        *) python3 benches/hostile.py "$port" $((seconds + 4)) "$rate" "$1" & noise=$! ;;
    esac
}
for round in $(seq "$rounds"); do
    for kind in alone slow-heads slow-bodies slow-readers hang-ups heads refusals; do
        noise=
        beside "$kind"
        [ -z "$noise" ] || { pids+=("$noise"); sleep 2; }
        line=$(wrk -t1 -c"$connections" -d"${seconds}s" --latency -s benches/delete.lua "http://127.0.0.1:$port" -- "$token")
        [ -z "$noise" ] || wait "$noise" || true
        awk -v kind="$kind" '
            function ms(text) { return text ~ /us$/ ? text / 1000 : text ~ /ms$/ ? text + 0 : text * 1000 }
            /requests in/ { count = $1 } /50%/ { p50 = ms($2) } /99%/ { p99 = ms($2) } /Non-2xx/ { bad = $NF }
            END { print kind, count, p50, p99, bad + 0 }' <<< "$line" >> "$folder/measured"
        tail -1 "$folder/measured" | awk -v round="$round" '{ printf "round %d  %-13s %7d deletions   p50 %8.2f ms   p99 %8.2f ms   not 2xx: %d\n", round, $1, $2, $3, $4, $5 }'
    done
done
awk '{ print $1 }' "$folder/measured" | sort -u | while read -r kind; do
    awk -v kind="$kind" '$1 == kind { print $4 }' "$folder/measured" | sort -n | awk -v kind="$kind" '{ all[NR] = $1 } END { print kind, all[int((NR + 1) / 2)] }'
done > "$folder/medians"
echo "median p99, beside the quiet one; memory of the gateway at the end: $(awk '/VmRSS/ { printf "%.1f MiB", $2 / 1024 }' "/proc/$gateway/status")"
awk '{ p99[$1] = $2 } END { for (kind in p99) { ratio = p99[kind] / p99["alone"]; printf "%-13s %8.2f ms   %5.2f\n", kind, p99[kind], ratio; worse += ratio > 3 } exit worse > 0 }' "$folder/medians"
