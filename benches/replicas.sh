#!/usr/bin/env bash
# What three replicas record in one PostgreSQL, beside one, and beside batches of one: WAITING who wait (64), SECONDS_EACH
# (3) for each of five arrangements, ROUNDS (3), of which the middle one is shown. The database is a private one, on
# sockets alone, in a folder that goes afterwards.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo build --release --locked --quiet --example replicas
programs=$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null | sort -V | tail -1) || true
folder=$(mktemp -d) server=
finish() {
  if [[ -n $server ]]; then kill -QUIT "$server" 2> /dev/null || true; wait "$server" 2> /dev/null || true; fi
  rm -rf "$folder"
}
trap finish EXIT
as=()
if [[ $EUID == 0 ]]; then
  # PostgreSQL does not run as root.
  chown postgres:postgres "$folder"
  as=(setpriv --reuid postgres --regid postgres --clear-groups)
fi
export PATH="${programs:+$programs:}$PATH"
"${as[@]}" initdb -D "$folder/data" -U postgres -A trust -E UTF8 --no-locale > /dev/null
"${as[@]}" postgres -D "$folder/data" -c listen_addresses= -c unix_socket_directories="$folder" > "$folder/log" 2>&1 &
server=$!
for _ in $(seq 300); do
  if pg_isready -q -h "$folder" -U postgres; then break; fi
  sleep 0.1
done
psql -h "$folder" -U postgres -qc 'CREATE DATABASE ledger'
echo "postgres://postgres@${folder//\//%2F}/ledger" > "$folder/url"
printf '[ledger]\nkind = "postgres"\nurl_file = "url"\nsigning_key_file = "signing-key"\n' > "$folder/gateway.toml"
target/release/examples/replicas "$folder/gateway.toml" "${WAITING:-64}" "${SECONDS_EACH:-3}" "${ROUNDS:-3}"
