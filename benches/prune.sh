#!/usr/bin/env bash
# What pruning a large ledger costs, and whom: a ledger with ENTRIES entries (1,000,000 by default) of 400 days ago is
# pruned beside a gateway that goes on deleting for 8 callers. Says how many entries went a second, and how long the
# slowest deletion took meanwhile, beside the slowest one of as long a time before.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
entries=${ENTRIES:-1000000}
[ -n "${BUILT:-}" ] || cargo build --release --locked --quiet --bin wasend-gateway
folder=$(mktemp -d) started=()
finish() { for process in "${started[@]}"; do kill "$process" 2> /dev/null || true; done; rm -rf "$folder"; }
trap finish EXIT
echo obviously-fake-key > "$folder/key"
target/release/wasend-gateway sandbox --listen 127.0.0.1:0 --api-key obviously-fake-key > "$folder/provider" 2> /dev/null &
started+=($!)
until [ -s "$folder/provider" ]; do sleep 0.01; done
provider=$(grep -o '127\.0\.0\.1:[0-9]*' "$folder/provider" | head -1)
hash=$(printf obviously-fake-token | sha256sum | cut -d' ' -f1)
cat > "$folder/gateway.toml" << TOML
[listen]
address = "127.0.0.1:0"
[ops]
address = "127.0.0.1:0"
[upstream]
url = "http://$provider"
api_key_file = "key"
[ledger]
path = "ledger"
retention_days = 30
[[callers]]
name = "bench"
tokens = [{ id = "t1", sha256 = "$hash" }]
[[callers.allow]]
sessions = ["*"]
groups = ["*@g.us"]
TOML
serve() {
    : > "$folder/ready"
    target/release/wasend-gateway serve --config "$folder/gateway.toml" > "$folder/ready" 2> "$folder/log" &
    gateway=$!; started+=("$gateway")
    until [ -s "$folder/ready" ]; do sleep 0.01; done
}
serve
kill "$gateway"; wait "$gateway" || true
python3 - "$folder/ledger" "$entries" << 'PYTHON'
import datetime, json, os, sqlite3, sys
folder, entries = sys.argv[1], int(sys.argv[2]) // 2 * 2
db = sqlite3.connect(folder + "/ledger.db")
db.execute("DELETE FROM entry")
began = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=400)
def rows():
    for seq in range(entries):
        time = (began + datetime.timedelta(seconds=seq // 8)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
        entry = {"v": 1, "seq": seq, "time": time}
        request = "01900000-0000-7000-8000-%012x" % (seq // 2)
        if seq >= entries - 2:
            entry["kind"] = "stop" if seq == entries - 1 else "policy"
        elif seq % 2 == 0:
            entry |= {"kind": "intent", "request_id": request, "caller": "caller%d" % (seq // 2 % 20), "credential": "t1", "peer": "10.0.0.1",
                "session": "session%d" % (seq // 2 % 40), "group": "1203630%011d@g.us" % (seq * 7919 % 100000), "rule": "caller.allow[0]",
                "policy": "sha256:00000000000000000000000000000000000000000000000000000000000000aa", "budgets": {}}
        else:
            entry |= {"kind": "outcome", "request_id": request, "outcome": "deleted", "status": 200, "sent": "yes"}
        yield seq, json.dumps(entry, separators=(",", ":")).encode()
db.executemany("INSERT INTO entry VALUES (?, ?)", rows())
db.commit()
db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
db.close()
tree = sqlite3.connect(folder + "/tree.db")
tree.executescript("DELETE FROM tile; DELETE FROM signed;")
tree.close()
for name in ["search.db", "search.db-wal", "search.db-shm", "signing-key"]:
    if os.path.exists(folder + "/" + name):
        os.remove(folder + "/" + name)
PYTHON
serve
python3 - "$folder/gateway.toml" "$folder/ready" "$entries" << 'PYTHON'
import http.client, json, statistics, subprocess, sys, threading, time
config, ready, entries = sys.argv[1], json.loads(open(sys.argv[2]).readline()), int(sys.argv[3])
host, port = ready["listen"].rsplit(":", 1)
def audit(*words):
    return subprocess.run(["target/release/wasend-gateway", "audit", *words, "--config", config], capture_output=True, text=True)
while True: # signed, and searchable as far as segments are full
    said = audit("checkpoint").stdout.splitlines()
    if len(said) > 1 and said[1].isdigit() and int(said[1]) >= entries: break
    time.sleep(0.5)
while json.loads(audit("verify", "--json").stdout or "{}").get("search_data_entries", 0) < entries - 4096: time.sleep(1)
times, stop = [], threading.Event()
def caller(number):
    line, n = http.client.HTTPConnection(host, int(port)), 0
    while not stop.is_set():
        n += 1
        began = time.perf_counter()
        line.request("DELETE", f"/s1/groups/{number * 10_000_000 + n}@g.us/picture", headers={"Authorization": "Bearer obviously-fake-token"})
        answer = line.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        times.append((time.perf_counter(), (time.perf_counter() - began) * 1e3))
callers = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
for one in callers: one.start()
time.sleep(2)
began = time.perf_counter()
done = audit("prune", "--before", "60d", "--json")
ended = time.perf_counter()
assert done.returncode == 0, done
gone = json.loads(done.stdout.splitlines()[-1])["removed"]
time.sleep(max(10, ended - began)) # as long again without it
stop.set()
for one in callers: one.join()
during = [took for at, took in times if began <= at <= ended]
beside = [took for at, took in times if at > ended + 1]
say = lambda took: f"{len(took)} deletions, median {statistics.median(took):.1f} ms, slowest {max(took):.1f} ms"
print(f"{gone} entries went in {ended - began:.1f} s: {gone / (ended - began):,.0f} entries/s")
print(f"meanwhile  {say(during)}\nwithout it {say(beside)}")
print(f"ratio      median {statistics.median(during) / statistics.median(beside):.2f}, slowest {max(during) / max(beside):.2f}")
PYTHON
