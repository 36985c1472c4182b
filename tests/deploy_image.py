"""Holds the image to what is around it: the files that it is built from, the binary's command line, the compose files.

Takes the binary; prints each fault and exits 1 when there is one. Builds nothing: the image's own build is `make image`.
"""

import fnmatch
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from ruamel.yaml import YAML

IMAGE = "wasend-gateway"


def instructions(text):
    """The instructions of a Dockerfile, one a pair of word and rest; comments are none."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines()]


def context():
    """What the build gets to see: nothing but what `.dockerignore` takes back from its `*`."""
    first, *back = [line for line in pathlib.Path(".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert first == "*" and all(line[0] == "!" for line in back), ".dockerignore begins with * and takes back from it"
    tracked = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.splitlines()
    for file in tracked:
        if any(fnmatch.fnmatch(file, line[1:]) or file.startswith(f"{line[1:]}/") for line in back):
            yield file


def of_context(cargo):
    """What is missing to build."""
    files = set(context())
    for source in sorted(file for file in files if file.startswith("src/")):
        for name in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', pathlib.Path(source).read_text()):
            wanted = (pathlib.Path(source).parent / name).resolve().relative_to(pathlib.Path.cwd()).as_posix()
            if wanted not in files and "tests" not in source:
                yield f"{source} includes {wanted}, which .dockerignore keeps out"
    # cargo itself says which files of Cargo.toml are not there.
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            copy = pathlib.Path(folder, file)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
        read = subprocess.run(
            [cargo, "metadata", "--locked", "--offline", "--no-deps", "--format-version=1"],
            cwd=folder, capture_output=True, text=True,
        )
        if read.returncode != 0:
            yield f"cargo cannot read what the build gets to see: {read.stderr}"


def of_compiler(base):
    """Whether the base image has a compiler that is new enough."""
    wanted = re.search(r'^rust-version = "(.*)"', pathlib.Path("Cargo.toml").read_text(), re.M)[1]
    if base is None or not base.startswith(f"rust:{wanted}-"):
        yield f"the build stage begins with {base}; Cargo.toml asks for {wanted}"


def runs(binary, words):
    """Whether the binary knows these words; it is not run with them."""
    asked = subprocess.run([binary, *words, "--help"], capture_output=True, text=True)
    return asked.returncode == 0 and "--config" in asked.stdout + " ".join(words) or words[:1] == ["sandbox"]


def of_dockerfile(binary):
    """Yields faults; ends with what the compose files have to agree with."""
    steps = instructions(pathlib.Path("Dockerfile").read_text())
    stages = [at for at, (word, _) in enumerate(steps) if word == "FROM"]
    if len(stages) != 2 or steps[stages[1]][1] != "scratch":
        yield "there is something else than a build stage and an empty image"
        return
    build, image = steps[: stages[1]], dict(steps[stages[1] :])
    yield from of_compiler(re.fullmatch(r"(\S+) AS build", steps[stages[0]][1])[1])
    made = " ".join(rest for word, rest in build if word == "RUN")
    copied = {}
    for word, rest in steps[stages[1] :]:
        if word == "COPY":
            chown, source, target = re.fullmatch(r"--from=build (?:--chown=(\S+) )?(\S+) (\S+)", rest).groups()
            copied[target] = chown
            if source not in made:
                yield f"{source} is copied, but the build stage does not make it"
    [entry], command = json.loads(image["ENTRYPOINT"]), json.loads(image["CMD"])
    if copied.get(entry, "nothing") is not None:
        yield f"{entry} is no file of root's in the image"
    if not runs(binary, command):
        yield f"the binary does not know {command}"
    [volume] = json.loads(image["VOLUME"])
    if copied.get(volume) != image["USER"] or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", image["USER"]):
        yield f"{volume} does not belong to the image's user {image['USER']}"
    yield from of_compose(binary, image["USER"], command[-1], volume, set(image["EXPOSE"].split()))


def of_compose(binary, user, config, volume, ports):
    """Whether whoever runs the image means the same paths, ports and words as the image."""
    for file in sorted(pathlib.Path("deploy").glob("*/compose.yaml")):
        settings = file.with_name("gateway.toml").read_text()
        listened = set(re.findall(r'^address = ".*:(\d+)"', settings, re.M))
        if listened != ports:
            yield f"{file}: gateway.toml listens on {listened}, the image exposes {ports}"
        named = re.findall(r'^\w+ = "(/[^"]+)"', settings, re.M)
        for name, service in YAML(typ="safe").load(file)["services"].items():
            if service.get("image") != IMAGE:
                continue
            if service["user"] != user:
                yield f"{file}: {name} runs as {service['user']}, the image as {user}"
            if not runs(binary, service["command"]):
                yield f"{file}: the binary does not know {service['command']}, which {name} runs"
            if service["command"][0] == "sandbox":
                continue
            if [entry["target"] for entry in service["configs"]] != [config] or service["command"][-1] != config:
                yield f"{file}: {name} does not read {config}"
            folders = [entry.split(":")[1] for entry in service["volumes"]]
            secrets = [f"/run/secrets/{secret}" for secret in service["secrets"]]
            if volume not in folders:
                yield f"{file}: {name} keeps nothing under {volume}"
            for path in named:
                if path not in secrets and not any(path.startswith(f"{folder}/") for folder in folders):
                    yield f"{file}: gateway.toml names {path}, which {name} does not have"


def main():
    found = [*of_context("cargo"), *of_dockerfile(sys.argv[1])]
    for fault in found:
        print(f"Dockerfile: {fault}")
    sys.exit(1 if found else 0)


main()
