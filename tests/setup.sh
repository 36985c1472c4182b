#!/usr/bin/env bash
# Installs what the tests need, and nothing that is there already: the real clients' runtimes, the provider's
# own SDK, and the tools that the tests look with. Debian or Ubuntu; elsewhere it says what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=tests/clients/.work
sdk=1.3.3

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
php -m 2> /dev/null | grep -qi '^curl$' || missing+=(php-curl)
python3 -c 'import ensurepip, venv' 2> /dev/null || missing+=(python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: installing ${missing[*]}"
    root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo)
    if ! command -v apt-get > /dev/null; then
        echo "setup: there is no apt-get here; install by hand what these Debian packages hold: ${missing[*]}" >&2
        exit 1
    fi
    "${root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi

if ! command -v cargo-nextest > /dev/null; then
    echo "setup: installing cargo-nextest"
    cargo install cargo-nextest --locked --quiet
fi

mkdir -p "$work"
if ! "$work/venv/bin/python" -c "import importlib.metadata as m; assert m.version('wasend') == '$sdk'" 2> /dev/null; then
    echo "setup: installing the provider's SDK, wasend $sdk"
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check "wasend==$sdk"
fi

# The Python SDK carries the JavaScript one inside it.
if [ ! -f "$work/node_modules/@wasend/core/package.json" ]; then
    mkdir -p "$work/node_modules/@wasend/core"
    package=$("$work/venv/bin/python" -c 'import importlib.util as i; print(i.find_spec("wasend").submodule_search_locations[0])')
    tar -xzf "$package/_jsii/core@$sdk.jsii.tgz" -C "$work/node_modules/@wasend/core" --strip-components=1
fi

if [ ! -x "$work/go-client" ] || [ tests/clients/client.go -nt "$work/go-client" ]; then
    (cd tests/clients && GO111MODULE=off GOFLAGS='' go build -o .work/go-client client.go)
fi
