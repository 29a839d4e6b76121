"""Whether each container can do its work, and no more: mounts, users, places to write, memory, probes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.helm.chart import Object
from tests.helm.pod_templates import SHARED_MEMORY, lasting, named, of_kind, pods

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
CACHES = {"HOME", "XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "TRITON_CACHE_DIR"}


def mounts_have_volumes(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        owner = next(item for item in objects if named(item) == pod.owner.split(" ")[0])
        claims = [each["metadata"]["name"] for each in owner["spec"].get("volumeClaimTemplates", ())]
        volumes = [each["name"] for each in pod.spec.get("volumes", ())] + claims
        mounts = [
            (each["name"], mount) for each in pod.every_container for mount in each.get("volumeMounts", ())
        ]
        for container, mount in mounts:
            if mount["name"] not in volumes:
                yield f"{pod.owner}: {container} mounts {mount['name']}, which is no volume"
        for volume in volumes:
            if volume not in {mount["name"] for _, mount in mounts}:
                yield f"{pod.owner}: nobody mounts {volume}"
        if len(set(volumes)) != len(volumes):
            yield f"{pod.owner}: two volumes have one name"
        for each in pod.every_container:
            paths = [mount["mountPath"] for mount in each.get("volumeMounts", ())]
            if len(set(paths)) != len(paths):
                yield f"{pod.owner}: {each['name']} mounts two volumes at one place"


def nobody_is_root(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        context = pod.spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or context.get("runAsUser", 1000) == 0:
            yield f"{pod.owner} may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.owner} has no seccomp profile"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.owner} gets a token of the API"
        if pod.spec.keys() & {"hostNetwork", "hostPID", "hostIPC"} or "hostPath" in str(
            pod.spec.get("volumes")
        ):
            yield f"{pod.owner} reaches into the node"
        for container in pod.every_container:
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
                yield f"{pod.owner}: {container['name']} may gain privileges"
            if own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{pod.owner}: {container['name']} keeps capabilities"
            # Its start script writes the configuration into the image's own directories; for trials only.
            if own.get("readOnlyRootFilesystem") is not True and container["name"] != "kafka":
                yield f"{pod.owner}: {container['name']} may write its root"


def programs_have_a_place_to_write(objects: list[Object]) -> Iterator[str]:
    ours = re.compile(r"qwen3vl-(cpu|gpu|gateway|loadtest)")
    for pod in pods(objects):
        for container in pod.every_container:
            if not ours.search(container["image"]):
                continue
            values = {each["name"]: each.get("value", "") for each in container.get("env", ())}
            writable = [
                mount["mountPath"] for mount in container.get("volumeMounts", ()) if not mount.get("readOnly")
            ]
            for name in sorted(CACHES):
                place = values.get(name, "")
                if not any(place == path or place.startswith(f"{path}/") for path in writable):
                    yield f"{pod.owner}: {container['name']} has {name}={place!r}, which it cannot write"


def quantity(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit] if unit != "m" else float(number) / 1000


def shared_memory_is_counted(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        volumes = {each["name"]: each for each in pod.spec.get("volumes", ())}
        for container in pod.every_container:
            if container["name"] not in SHARED_MEMORY:
                continue
            mounted = [
                mount["name"]
                for mount in container.get("volumeMounts", ())
                if mount["mountPath"] == "/dev/shm"
            ]
            if len(mounted) != 1:
                yield f"{pod.owner}: {container['name']} has the 64 MiB of /dev/shm that a runtime gives"
                continue
            volume = volumes.get(mounted[0], {}).get("emptyDir", {})
            limit = container["resources"]["limits"]["memory"]
            if volume.get("medium") != "Memory" or "sizeLimit" not in volume:
                yield f"{pod.owner}: /dev/shm of {container['name']} is no memory with a limit"
            elif quantity(volume["sizeLimit"]) > 0.75 * quantity(limit):
                yield f"{pod.owner}: /dev/shm ({volume['sizeLimit']}) counts as memory of {container['name']} ({limit})"


def containers_have_limits(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        for container in pod.every_container:
            resources = container.get("resources", {})
            if not {"cpu", "memory"} <= resources.get("requests", {}).keys():
                yield f"{pod.owner}: {container['name']} requests no CPU or memory"
            if "memory" not in resources.get("limits", {}):
                yield f"{pod.owner}: {container['name']} has no memory limit"
            if container["image"].endswith(":latest") or not re.search(r"[:@][^/]+$", container["image"]):
                yield f"{pod.owner}: {container['image']} is not pinned"


def claims_ask_for_room(objects: list[Object]) -> Iterator[str]:
    templates = [each for item in objects for each in item.get("spec", {}).get("volumeClaimTemplates", ())]
    for item in [*of_kind(objects, "PersistentVolumeClaim"), *templates]:
        size = item["spec"]["resources"]["requests"].get("storage", "")
        if not re.fullmatch(r"[0-9]+(Mi|Gi|Ti)", str(size)):
            yield f"claim {item['metadata']['name']} asks for {size!r}, which is no quantity"


def probes_ask_what_is_answered(objects: list[Object]) -> Iterator[str]:
    answered = {
        "server": {"/v2/health/ready", "/v2/health/live"},
        "gateway": {"/healthz", "/readyz"},
        "worker": {"/healthz", "/readyz"},
        "proxy": {"/ready"},
    }
    for pod in lasting(objects):
        for container in pod.containers:
            if pod.component == "loadtest":
                continue
            if "livenessProbe" not in container:
                yield f"{pod.owner}: {container['name']} has no liveness probe"
            if not container.keys() & {"startupProbe", "readinessProbe"}:
                yield f"{pod.owner}: nobody waits until {container['name']} works"
            for where in ("startupProbe", "readinessProbe", "livenessProbe"):
                path = container.get(where, {}).get("httpGet", {}).get("path")
                if path and path not in answered.get(container["name"], ()):
                    yield f"{pod.owner}: {where} of {container['name']} asks {path}, which nobody answers"
            if container["name"] == "server":
                for where in ("startupProbe", "readinessProbe"):
                    if container[where]["httpGet"]["path"] != "/v2/health/ready":
                        yield f"{pod.owner}: {where} of the server does not ask whether models are loaded"
                if container["livenessProbe"]["httpGet"]["path"] != "/v2/health/live":
                    yield f"{pod.owner}: a server that loads would be killed by its liveness probe"
