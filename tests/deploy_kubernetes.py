"""Holds what the schemas of Kubernetes cannot: that the rendered manifests fit each other, the configuration and the
rules of the house.

Takes the rendered manifests and the gateway's configuration; prints each fault and exits 1 when there is one.
"""

import sys
import tomllib

from ruamel.yaml import YAML

NAME = "wasend-gateway"
CLOSED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
POD = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
# After the drain: recording that it gave up, and the last entries.
LAST_S = 10


def paths(table):
    """Yields each file that a table of the configuration names."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from paths(value)
        elif key.endswith("_file"):
            yield value


def of_pod(pod, config, drain_ms):
    """Yields a sentence for each rule that the pod breaks."""
    for key, value in POD.items():
        if pod["securityContext"].get(key) != value:
            yield f"the pod's securityContext.{key} is not {value}"
    if pod.get("automountServiceAccountToken") is not False:
        yield "the pod gets a token for Kubernetes"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"the pod has {key}"
    for container in pod["containers"] + pod["initContainers"]:
        if container["securityContext"] != CLOSED:
            yield f"the container {container['name']} may do more than {CLOSED}"
        if "env" in container or "envFrom" in container:
            yield f"the container {container['name']} has an environment: settings and secrets are files"
        if "memory" not in container["resources"]["limits"] or "cpu" in container["resources"]["limits"]:
            yield f"{container['name']}: memory has a limit; the processor has none, since it would stall deadlines"
    gateway = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    wanted = {"callers": config["listen"]["address"], "operators": config["ops"]["address"]}
    for name, address in wanted.items():
        if address != f"0.0.0.0:{ports.get(name)}":
            yield f"the port {name} is {ports.get(name)}, the configuration listens on {address}"
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        if gateway[probe]["httpGet"] != {"path": path, "port": "operators"}:
            yield f"{probe} does not ask {path} on the operators' port"
    before_s = gateway["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed_s, patience_s = before_s + drain_ms / 1000 + LAST_S, pod["terminationGracePeriodSeconds"]
    if patience_s < needed_s:
        yield f"stopping takes up to {needed_s} s, terminationGracePeriodSeconds is {patience_s}"


def of_files(pod, config, objects):
    """Yields a sentence for each file that the configuration names and the pod does not have."""
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    there = set()
    state = [mounts[volume["name"]] for volume in pod["volumes"] if "emptyDir" in volume]
    copy = config["ledger"].get("checkpoint_copy", "")
    if not any(copy.startswith(f"{folder}/") for folder in state):
        yield f"ledger.checkpoint_copy is {copy!r}, in no volume that outlasts a restart and can be written"
    for volume in pod["volumes"]:
        if "emptyDir" in volume:
            continue
        is_secret = "secret" in volume
        kind = "Secret" if is_secret else "ConfigMap"
        name = volume["secret"]["secretName"] if is_secret else volume["configMap"]["name"]
        if (kind, name) not in objects:
            yield f"the volume {volume['name']} wants the {kind} {name}, which is not there"
            continue
        there |= {f"{mounts[volume['name']]}/{key}" for key in objects[kind, name]["data"]}
        if is_secret and volume["secret"].get("defaultMode") != 0o440:
            yield "secrets are readable by others than the gateway's group"
    for path in paths(config):
        if path not in there:
            yield f"the configuration names {path}, which no volume holds"
    for container in pod["containers"] + pod["initContainers"]:
        if container["args"][-1] not in there:
            yield f"{container['name']} is started with {container['args'][-1]}, which no volume holds"


def of_selectors(objects, labels, ports):
    """Yields a sentence for each object that selects other pods or ports than ours."""
    def selected(kind, selector):
        if not selector or not selector.items() <= labels.items():
            yield f"the {kind} selects {selector}, the pods are {labels}"

    service = objects["Service", NAME]["spec"]
    budget, policy = objects["PodDisruptionBudget", NAME]["spec"], objects["NetworkPolicy", NAME]["spec"]
    yield from selected("Service", service["selector"])
    yield from selected("PodDisruptionBudget", budget["selector"]["matchLabels"])
    yield from selected("NetworkPolicy", policy["podSelector"]["matchLabels"])
    if [port["targetPort"] for port in service["ports"]] != ["callers"]:
        yield "the Service leads elsewhere than to the caller port: the operators' port is in no service"
    if set(policy["policyTypes"]) != {"Ingress", "Egress"}:
        yield "the NetworkPolicy leaves a direction open"
    for rule in policy["ingress"]:
        if not rule.get("from") or not rule.get("ports") or len(rule["ports"]) != 1:
            yield f"the NetworkPolicy lets everybody in, or to more than one port: {rule}"
    if {rule["ports"][0]["port"] for rule in policy["ingress"]} != set(ports):
        yield "the NetworkPolicy forgets a port"
    if any(not rule.get("to") or not rule.get("ports") for rule in policy["egress"]):
        yield "the NetworkPolicy lets the gateway out to everywhere"


def faults(manifests, config, drain_ms):
    """Yields a sentence for each rule that the manifests break."""
    objects = {(one["kind"], one["metadata"]["name"]): one for one in manifests}
    deployment = objects["Deployment", NAME]["spec"]
    pod = deployment["template"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    if deployment["replicas"] < 3:
        yield "there are fewer than three replicas"
    if config["ledger"]["kind"] != "postgres" or config["limits"]["kind"] != "redis":
        yield "several replicas need one ledger and one place for rates: postgres and redis"
    for one in manifests:
        if one["kind"] != "Namespace" and one["metadata"].get("namespace") != NAME:
            yield f"{one['kind']} {one['metadata']['name']} is in another namespace"
    yield from of_pod(pod, config, drain_ms)
    yield from of_files(pod, config, objects)
    yield from of_selectors(objects, labels, [port["name"] for port in pod["containers"][0]["ports"]])


rendered, gateway, default = sys.argv[1:]
with open(gateway, "rb") as file:
    settings = tomllib.load(file)
with open(default, "rb") as file:
    drain = {**tomllib.load(file)["listen"], **settings["listen"]}["drain_timeout_ms"]
found = list(faults(list(YAML(typ="safe").load_all(open(rendered, encoding="utf-8"))), settings, drain))
for fault in found:
    print(f"deploy/kubernetes: {fault}", file=sys.stderr)
sys.exit(1 if found else 0)
