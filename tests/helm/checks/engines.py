"""Whether servers get the engines and the GPUs that they need."""

from __future__ import annotations

from collections.abc import Iterator

from tests.helm.chart import Object
from tests.helm.pod_templates import SHARED_MEMORY, pods


def gpus_are_asked_for(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        for container in pod.every_container:
            resources = container.get("resources", {})
            gpus = {key: value for key, value in resources.get("limits", {}).items() if "nvidia.com/" in key}
            if gpus != {
                key: value for key, value in resources.get("requests", {}).items() if "nvidia.com/" in key
            }:
                yield f"{pod.owner}: {container['name']} requests other GPUs than its limit"
            needs = container["name"] in SHARED_MEMORY and "qwen3vl-gpu" in container["image"]
            if needs and not gpus:
                yield f"{pod.owner}: {container['name']} gets no GPU"
            if gpus and not needs and container["name"] != "wait-for-engines":
                yield f"{pod.owner}: {container['name']} takes a GPU"


def engines_lie_under_their_key(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        key = pod.labels.get("qwen3-vl/engine-key")
        words = [word for each in pod.every_container for word in each.get("args", ())]
        for word in words:
            if key and word.startswith("--key=") and word != f"--key={key}":
                yield f"{pod.owner}: {word} is not the key of its label, {key}"
            if key and word.startswith("--engines=") and word != f"--engines=/engines/{key}":
                yield f"{pod.owner} serves {word}, not the engines of key {key}"
        if pod.owner.startswith("Job/") and pod.component == "engine" and not pod.owner.endswith(f"-{key}"):
            yield f"{pod.owner} is not named by its key: an upgrade would meet an immutable Job"
        if key:
            builders = [each for each in pod.every_container if "cached" in each.get("args", ())]
            if not builders:
                yield f"{pod.owner}: nobody makes sure that the engines are there"
            for each in builders:
                reads = [m for m in each["volumeMounts"] if m["name"] == "engines" and m.get("readOnly")]
                if ("--check-only" in each["args"]) != bool(reads):
                    yield f"{pod.owner}: {each['name']} builds on a read-only volume, or checks on a writable one"
