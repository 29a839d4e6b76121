"""Whether pods come, go, scale and are replaced without loss: grace, budgets, replicas, rollouts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.helm.chart import NAMESPACE, RELEASE, Object
from tests.helm.pod_templates import lasting, named, of_kind


def grace_holds_the_drain(objects: list[Object]) -> Iterator[str]:
    for pod in lasting(objects):
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        for container in pod.containers:
            arguments = {
                word.partition("=")[0].removeprefix("--") + word.partition("=")[1]: word.rpartition("=")[2]
                for word in container.get("args", ())
            }
            sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            if container["name"] == "server":
                (timeout,) = [
                    int(word.rpartition("=")[2]) for word in container["args"] if "exit_timeout_s=" in word
                ]
                if sleep < 1:
                    yield f"{pod.owner}: no sleep before SIGTERM: balancers still send"
                if grace < sleep + timeout + 5:
                    yield f"{pod.owner}: grace {grace} s is below sleep {sleep} s and drain {timeout} s"
            elif container["name"] == "gateway" and pod.component == "gateway":
                if grace < int(arguments["unready-s="]) + 130 + 5:
                    yield f"{pod.owner}: grace {grace} s cuts streams, which have 130 s"
            elif container["name"] == "worker" and grace < _gateway(objects)["kafka"]["drain_s"] + 5:
                yield f"{pod.owner}: grace {grace} s is below the worker's drain"
            elif container["name"] == "proxy":
                (timeout,) = re.findall(r"fixed_delay: (\d+)s", _config(objects, "proxy", "envoy.yaml"))
                if grace < int(timeout) + 5:
                    yield f"{pod.owner}: grace {grace} s is below the proxy's drain {timeout} s"


def _config(objects: list[Object], component: str, key: str) -> str:
    (item,) = [
        each for each in of_kind(objects, "ConfigMap") if each["metadata"]["name"].endswith(f"-{component}")
    ]
    return str(item["data"][key])


def _gateway(objects: list[Object]) -> dict[str, Any]:
    return dict(yaml.safe_load(_config(objects, "gateway", "gateway.yaml")))


def scalers_own_the_replicas(objects: list[Object]) -> Iterator[str]:
    for item in of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler"):
        target = item["spec"]["scaleTargetRef"]
        found = [
            each
            for each in of_kind(objects, target.get("kind", "Deployment"))
            if each["metadata"]["name"] == target["name"]
        ]
        if not found:
            yield f"{named(item)} scales {target['name']}, which is not there"
        for each in found:
            if "replicas" in each["spec"]:
                yield f"{named(each)} has replicas, which {named(item)} decides"
    scalers = of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler")
    targets = [item["spec"]["scaleTargetRef"]["name"] for item in scalers]
    if len(set(targets)) != len(targets):
        yield "two scalers fight over one deployment"


def scaling_asks_for_this_release(objects: list[Object]) -> Iterator[str]:
    known = re.compile(
        r"qwen3vl_waiting_sequences|qwen3vl_kv_blocks_(in_use|total)|nv_trt_llm_request_metrics|"
        r"nv_trt_llm_kv_cache_block_metrics|nv_inference_pending_request_count|envoy_cluster_grpc_total"
    )
    for item in of_kind(objects, "ScaledObject"):
        for trigger in item["spec"]["triggers"]:
            if (query := trigger["metadata"].get("query")) is None:
                continue
            for selector in re.findall(r"(\w+)\{([^}]*)\}", query):
                name, labels = selector
                if not known.fullmatch(name):
                    yield f"{named(item)}: {trigger['name']} asks for {name}, which nobody exports"
                for label, value in (("namespace", NAMESPACE), ("release", RELEASE)):
                    if f'{label}="{value}"' not in labels:
                        yield f"{named(item)}: {trigger['name']} counts other {label}s"
            if "or vector(0)" not in query:
                yield f"{named(item)}: {trigger['name']} gives nothing while no server runs"


def budgets_let_nodes_drain(objects: list[Object]) -> Iterator[str]:
    for item in of_kind(objects, "PodDisruptionBudget"):
        if item["spec"].get("maxUnavailable") != 1 or "minAvailable" in item["spec"]:
            yield f"{named(item)} may block the drain of a node for ever"


def jobs_end(objects: list[Object]) -> Iterator[str]:
    for item in of_kind(objects, "Job"):
        if item["spec"]["template"]["spec"].get("restartPolicy") not in ("Never", "OnFailure"):
            yield f"{named(item)} never ends: Kubernetes refuses it"
        for wanted in ("activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"):
            if wanted not in item["spec"]:
                yield f"{named(item)} has no {wanted}"


def stateful_pods_are_single(objects: list[Object]) -> Iterator[str]:
    if "sqlite:" not in yaml.safe_dump(of_kind(objects, "ConfigMap")):
        return
    for item in of_kind(objects, "Deployment"):
        one = item["spec"].get("replicas") == 1 and item["spec"]["strategy"]["type"] == "Recreate"
        if item["metadata"]["name"].endswith("-gateway") and not one:
            yield f"{named(item)}: two pods would write one SQLite file"


def gpu_rollouts_need_no_spare(objects: list[Object]) -> Iterator[str]:
    for item in of_kind(objects, "Deployment"):
        if "nvidia.com/" not in yaml.safe_dump(item["spec"]["template"]["spec"]["containers"]):
            continue
        strategy = item["spec"]["strategy"]
        if strategy["type"] == "RollingUpdate" and strategy["rollingUpdate"]["maxSurge"] != 0:
            yield f"{named(item)}: a further pod would wait for a GPU for ever"
