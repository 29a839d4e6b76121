"""The chart's rules and dashboards, and the queries that scaling asks, as the chart has them. It knows files, not servers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.helm.chart import CHART, NAMESPACE, RELEASE, render

RULES = sorted((CHART / "rules").glob("*.yaml"))
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
UNIT_TESTS = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
RUNBOOK = "docs/kubernetes.md"

NVIDIA = frozenset(
    {
        "nv_trt_llm_request_metrics",
        "nv_trt_llm_kv_cache_block_metrics",
        "nv_trt_llm_inflight_batcher_metrics",
        "nv_gpu_utilization",
        "nv_gpu_memory_used_bytes",
        "nv_gpu_power_usage",
    }
)
"""Of Triton's TensorRT-LLM backend and of Triton on a GPU, as NVIDIA documents them; no server here has them."""
ENVOY = frozenset(
    {
        "envoy_http_downstream_rq_total",
        "envoy_http_downstream_rq_xx",
        "envoy_cluster_upstream_rq_active",
        "envoy_cluster_upstream_rq_retry",
        "envoy_cluster_membership_healthy",
        "envoy_cluster_membership_total",
        "envoy_server_days_until_first_cert_expiring",
    }
)
"""Of the proxy; test_proxy.py has one to ask."""
KUBERNETES = frozenset(
    {
        "kube_job_failed",
        "kube_pod_init_container_status_waiting_reason",
        "kube_pod_status_ready",
        "kube_pod_status_unschedulable",
    }
)
"""Of kube-state-metrics, as it documents them."""
PROMETHEUS = frozenset({"up", "ALERTS"})


def rules(kind: str) -> dict[str, list[Mapping[str, Any]]]:
    """`alert` or `record`: the rules of that kind by name."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                if kind in rule:
                    found.setdefault(rule[kind], []).append(rule)
    return found


def dashboard(file: Path) -> Mapping[str, Any]:
    """One dashboard."""
    document: Mapping[str, Any] = json.loads(file.read_text())
    return document


def panel_queries(file: Path) -> Iterator[tuple[str, str]]:
    """Title of a panel and an expression of it."""
    for panel in dashboard(file)["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def expressions() -> dict[str, str]:
    """Every expression of rules and dashboards, by where it stands."""
    found: dict[str, str] = {}
    for kind in ("alert", "record"):
        for name, several in rules(kind).items():
            found |= {f"{name} {number}": str(rule["expr"]) for number, rule in enumerate(several)}
    for file in DASHBOARDS:
        for number, (title, expression) in enumerate(panel_queries(file)):
            found[f"{file.stem}: {title} {number}"] = expression
    return found


@cache
def scaling_queries(target: str) -> Mapping[str, str]:
    """Name to expression, of the ScaledObject that the chart renders for `openvino` or `tensorrt-llm`."""
    profile = {"openvino": "cpu", "tensorrt-llm": "gpu-h100"}[target]
    objects = render(
        values=[CHART / "values" / f"{profile}.yaml"],
        sets=[
            "autoscaling.mode=keda",
            'engine.cache.accessModes=["ReadWriteMany"]',
            'weights.claim.accessModes=["ReadWriteMany"]',
        ],
        release=RELEASE,
        namespace=NAMESPACE,
    )
    (scaled,) = (
        each
        for each in objects
        if each["kind"] == "ScaledObject" and each["metadata"]["name"].endswith("-server")
    )
    triggers = [each for each in scaled["spec"]["triggers"] if each["type"] == "prometheus"]
    return {each["name"]: each["metadata"]["query"] for each in triggers}
