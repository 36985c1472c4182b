"""Holds what the schema of compose files cannot: nothing runs with more than it needs, and the sandbox is out of reach.

Takes the compose file; prints each fault and exits 1 when there is one.
"""

import sys

from ruamel.yaml import YAML

HARDENED = {
    "user": "65532:65532",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "stop_grace_period": "40s",
    "ulimits": {"core": 0},
}


def faults(compose):
    """Yields a sentence for each rule that the parsed file breaks."""
    services = compose["services"]
    for name, service in services.items():
        for key, value in HARDENED.items():
            if service.get(key) != value:
                yield f"{name}.{key} is {service.get(key)}, not {value}"
        for key in ("privileged", "cap_add", "environment", "env_file", "devices", "pid", "ipc"):
            if key in service:
                yield f"{name}.{key} is there: nothing here needs it"

    gateway, sandbox = services["gateway"], services["sandbox"]
    if gateway.get("image") != sandbox.get("image"):
        yield "gateway and sandbox are two images: one binary is both"
    if sandbox.get("network_mode") != "service:gateway" or "networks" in sandbox or "ports" in sandbox:
        yield "the sandbox can be reached by others than the gateway: it belongs on the gateway's loopback"
    for port in gateway["ports"]:
        if not str(port).startswith("127.0.0.1:"):
            yield f"the port {port} is published to the network, not to this machine alone"
    for name, secret in compose["secrets"].items():
        if set(secret) != {"file"}:
            yield f"the secret {name} does not come from a file"


found = list(faults(YAML(typ="safe").load(open(sys.argv[1], encoding="utf-8"))))
for fault in found:
    print(f"{sys.argv[1]}: {fault}", file=sys.stderr)
sys.exit(1 if found else 0)
