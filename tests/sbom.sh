#!/usr/bin/env bash
# Writes what the binary is made of as a CycloneDX bill of materials, and holds it against the format's own schema and
# against the lock file. The same commit makes the same bytes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly tools=tests/clients/.work/venv-sbom
readonly package=cyclonedx-python-lib[json-validation]==11.12.0
readonly bill=${CARGO_TARGET_DIR:-target}/wasend-gateway.cdx.json

fail() {
    printf 'sbom: FAILED: %s\n' "$*" >&2
    exit 1
}

if [[ "$(cat "$tools/installed" 2>/dev/null)" != "$package" ]]; then
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check "$package"
    printf '%s\n' "$package" >"$tools/installed"
fi

# It is written beside Cargo.toml, wherever one would like to have it. With a time that is given, it has no number of its
# own that would be another each time.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) cargo cyclonedx --format json --spec-version 1.5 \
    --target x86_64-unknown-linux-gnu --override-filename bill
mkdir -p "$(dirname "$bill")"
# Where it was made is nobody's business, and would be another each time.
sed "s#path+file://$PWD#path+file:///src#" bill.json >"$bill"
rm bill.json

"$tools/bin/python" - "$bill" <<'EOF' || fail "$bill: see above"
import json, subprocess, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

text = open(sys.argv[1]).read()
faults = [repr(fault) for fault in [JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)] if fault]
bill = json.loads(text)
listed = {(part["name"], part["version"]): part for part in bill["components"]}
# What cargo says is built, and what the lock file says of each.
tree = subprocess.run(
    ["cargo", "tree", "--locked", "--edges=normal,build", "--target=x86_64-unknown-linux-gnu", "--prefix=none", "--format={p}"],
    check=True, capture_output=True, text=True,
).stdout
built = {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}
built = {(name, version.removeprefix("v")) for name, version in built} - {("wasend-gateway", bill["metadata"]["component"]["version"])}
lock = open("Cargo.lock").read()
# What tests alone turn on may be listed too: cargo names features of both together.
faults += [f"{name} {version} is built and not listed" for name, version in sorted(built - set(listed))]
for (name, version), part in listed.items():
    if not part.get("licenses"):
        faults.append(f"{name} {version} has no licence")
    if not any(digest["alg"] == "SHA-256" and digest["content"] in lock for digest in part.get("hashes", [])):
        faults.append(f"{name} {version} has not the hash of the lock file")
print(*faults, sep="\n", end="\n" if faults else "")
sys.exit(1 if faults else 0)
EOF
printf 'sbom: ok: %s\n' "$bill"
