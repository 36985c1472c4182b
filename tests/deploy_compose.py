"""Holds what the schema of compose files cannot: nothing runs with more than it needs, and the sandbox is out of reach.

Takes compose files; prints each fault and exits 1 when there is one.
"""

import ipaddress
import sys

from ruamel.yaml import YAML

IMAGE = "wasend-gateway"
# Whatever runs, ours or not.
CLOSED = {
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "ulimits": {"core": 0},
}
OURS = {
    "user": "65532:65532",
    "read_only": True,
    "stop_grace_period": "40s",
}
# What the entry points of others need to give a folder to their own user, and become it.
BECOME = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}


def of_service(name, service):
    """Yields a sentence for each rule that one service breaks."""
    ours = service.get("image") == IMAGE
    for key, value in {**CLOSED, **(OURS if ours else {})}.items():
        if service.get(key) != value:
            yield f"{name}.{key} is {service.get(key)}, not {value}"
    for key in ("privileged", "env_file", "devices", "pid", "ipc"):
        if key in service:
            yield f"{name}.{key} is there: nothing here needs it"
    if ours and ("cap_add" in service or "environment" in service):
        yield f"{name} has cap_add or environment: nothing of ours needs it"
    if not set(service.get("cap_add", [])) <= BECOME:
        yield f"{name}.cap_add is {service['cap_add']}: more than it takes to become another user"
    for variable in service.get("environment", {}):
        if "PASSWORD" in variable and not variable.endswith("_FILE"):
            yield f"{name}.environment.{variable}: a secret comes from a file"
    for port in service.get("ports", []):
        if not str(port).startswith("127.0.0.1:"):
            yield f"the port {port} is published to the network, not to this machine alone"


def faults(compose):
    """Yields a sentence for each rule that the parsed file breaks."""
    services = compose["services"]
    for name, service in services.items():
        yield from of_service(name, service)

    word = lambda service: service.get("command", [""])[0]
    gateways = {name for name, service in services.items() if word(service) == "serve"}
    sandboxes = {name: service for name, service in services.items() if word(service) == "sandbox"}
    for name in [*gateways, *sandboxes]:
        if services[name].get("image") != IMAGE:
            yield f"{name} runs another image: one binary is both"
    served = {service.get("network_mode") for service in sandboxes.values()}
    if served != {f"service:{name}" for name in gateways}:
        yield f"sandboxes are at {served}: each gateway needs one, on its own loopback, out of reach for others"
    for name, service in sandboxes.items():
        if "networks" in service or "ports" in service:
            yield f"{name} can be reached by others than the gateway: it belongs on the gateway's loopback"
    for name, service in services.items():
        networks = service.get("networks", [])
        for network, of in networks.items() if isinstance(networks, dict) else ():
            ours = ipaddress.ip_address(of.get("ipv4_address", "0.0.0.0"))
            pools = compose["networks"][network].get("ipam", {}).get("config", [])
            if any(ours in ipaddress.ip_network(pool.get("ip_range", pool["subnet"])) for pool in pools):
                yield f"{name} is to have {ours}, which another service may be given before it starts"
    for name, secret in compose["secrets"].items():
        if set(secret) != {"file"}:
            yield f"the secret {name} does not come from a file"


failed = False
for file in sys.argv[1:]:
    for fault in faults(YAML(typ="safe").load(open(file, encoding="utf-8"))):
        print(f"{file}: {fault}", file=sys.stderr)
        failed = True
sys.exit(failed)
