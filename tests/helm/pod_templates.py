"""Looks into rendered objects: pods, what selects them, what they refer to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.helm.chart import Object

COMPONENT = "app.kubernetes.io/component"
SHARED_MEMORY = {"server", "rank", "build", "build-engines"}
"""Containers that run Triton or build engines."""


@dataclass(frozen=True)
class Pod:
    """The pods that an object makes: its name for messages, their labels and their spec."""

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def component(self) -> str:
        return self.labels.get(COMPONENT, "")

    @property
    def containers(self) -> list[dict[str, Any]]:
        """The main ones."""
        return list(self.spec["containers"])

    @property
    def every_container(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        return {
            port["name"]: port["containerPort"] for each in self.containers for port in each.get("ports", ())
        }


def named(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def pods(objects: list[Object]) -> list[Pod]:
    """All of them, those of tests and of a LeaderWorkerSet's two templates included."""
    return [pod for item in objects for pod in _pods(item)]


def _pods(item: Object) -> Iterator[Pod]:
    name, spec = named(item), item.get("spec", {})
    if item["kind"] == "Pod":
        yield Pod(name, item["metadata"]["labels"], spec)
    elif item["kind"] in ("Deployment", "StatefulSet", "Job"):
        yield Pod(name, spec["template"]["metadata"]["labels"], spec["template"]["spec"])
    elif item["kind"] == "LeaderWorkerSet":
        for role in ("leaderTemplate", "workerTemplate"):
            template = spec["leaderWorkerTemplate"][role]
            yield Pod(f"{name} {role}", template["metadata"]["labels"], template["spec"])


def selected(objects: list[Object], labels: dict[str, str]) -> list[Pod]:
    """Pods with all of these labels."""
    return [pod for pod in pods(objects) if labels.items() <= pod.labels.items()]


def lasting(objects: list[Object]) -> list[Pod]:
    """Pods that are to run for ever."""
    kinds = ("Deployment", "StatefulSet", "LeaderWorkerSet")
    return [pod for pod in pods(objects) if pod.owner.split("/")[0] in kinds]
