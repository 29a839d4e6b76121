"""Whether objects find each other: selectors, ports, references, addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.helm.chart import NAMESPACE, Object
from tests.helm.pod_templates import COMPONENT, named, of_kind, pods, selected

LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
OWN = ("Deployment", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor")


def selectors_match(objects: list[Object]) -> Iterator[str]:
    for item in of_kind(objects, "Deployment", "StatefulSet"):
        labels = item["spec"]["selector"]["matchLabels"]
        if not labels.items() <= item["spec"]["template"]["metadata"]["labels"].items():
            yield f"{named(item)} does not select its own pods"
    for item, labels in _selectors(objects):
        found = selected(objects, labels)
        if not found:
            yield f"{named(item)} selects no pod: {labels}"
        if len({pod.component for pod in found}) > 1:
            yield f"{named(item)} selects several components"
        own = item["metadata"]["labels"].get(COMPONENT)
        if found and item["kind"] in OWN and found[0].component != own:
            yield f"{named(item)}, of {own}, selects {found[0].component}"
    for item in of_kind(objects, "Service"):
        own = item["metadata"]["labels"].get(COMPONENT)
        for pod in selected(objects, item["spec"]["selector"]):
            if pod.component != own:
                yield f"{named(item)}, of {own}, sends to {pod.component}"


def _selectors(objects: list[Object]) -> Iterator[tuple[Object, dict[str, str]]]:
    for item in objects:
        match item["kind"]:
            case "Service":
                yield item, item["spec"]["selector"]
            case "NetworkPolicy":
                yield item, item["spec"]["podSelector"]["matchLabels"]
            case "Deployment" | "StatefulSet" | "PodDisruptionBudget" | "PodMonitor":
                yield item, item["spec"]["selector"]["matchLabels"]


def ports_exist(objects: list[Object]) -> Iterator[str]:
    for item in of_kind(objects, "Service"):
        for pod in selected(objects, item["spec"]["selector"]):
            for port in item["spec"]["ports"]:
                if port["targetPort"] not in pod.ports:
                    yield f"{named(item)}: {pod.owner} has no port {port['targetPort']}"
                elif port["port"] not in (pod.ports[port["targetPort"]], 80):
                    yield f"{named(item)}: port {port['port']} leads to {pod.ports[port['targetPort']]}"
    for pod in pods(objects):
        for container in pod.containers:
            ports = {port["name"] for port in container.get("ports", ())}
            for where, port in _probed(container):
                if port not in ports:
                    yield f"{pod.owner}: {where} of {container['name']} asks port {port}, which it does not have"
    for item in of_kind(objects, "NetworkPolicy"):
        found = selected(objects, item["spec"]["podSelector"]["matchLabels"])
        for rule in item["spec"].get("ingress", ()):
            for port in rule.get("ports", ()):
                if not any(port["port"] in pod.ports for pod in found):
                    yield f"{named(item)} opens port {port['port']}, which its pods do not have"
    for item in of_kind(objects, "PodMonitor"):
        for pod in selected(objects, item["spec"]["selector"]["matchLabels"]):
            for endpoint in item["spec"]["podMetricsEndpoints"]:
                if endpoint["port"] not in pod.ports:
                    yield f"{named(item)} scrapes port {endpoint['port']}, which {pod.owner} does not have"
    yield from _monitored_services(objects)
    yield from _backends(objects)


def _probed(container: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for where in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container.get(where, {})
        for kind in ("httpGet", "tcpSocket"):
            if kind in probe:
                yield where, probe[kind]["port"]
    if "httpGet" in (hook := container.get("lifecycle", {}).get("preStop", {})):
        yield "preStop", hook["httpGet"]["port"]


def _monitored_services(objects: list[Object]) -> Iterator[str]:
    for item in of_kind(objects, "ServiceMonitor"):
        labels = item["spec"]["selector"]["matchLabels"]
        found = [
            each
            for each in of_kind(objects, "Service")
            if labels.items() <= each["metadata"]["labels"].items()
        ]
        names = {port["name"] for each in found for port in each["spec"]["ports"]}
        for endpoint in item["spec"]["endpoints"]:
            if endpoint["port"] not in names:
                yield f"{named(item)}: no selected service has a port {endpoint['port']}"


def _backends(objects: list[Object]) -> Iterator[str]:
    services = {item["metadata"]["name"]: item["spec"]["ports"] for item in of_kind(objects, "Service")}
    for item in of_kind(objects, "Ingress"):
        for rule in item["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                if service["port"]["name"] not in {
                    port["name"] for port in services.get(service["name"], ())
                }:
                    yield f"{named(item)} leads to {service}, which is not there"
    for item in of_kind(objects, "HTTPRoute", "GRPCRoute"):
        for rule in item["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                if backend["port"] not in {port["port"] for port in services.get(backend["name"], ())}:
                    yield f"{named(item)} leads to {backend}, which is not there"


def references_exist(objects: list[Object]) -> Iterator[str]:
    """Names that begin with the release are the chart's own; others are of the user."""
    there = {(item["kind"], item["metadata"]["name"]): item for item in objects}
    prefix = fullname(objects)

    def missing(kind: str, name: str) -> bool:
        return name.startswith(f"{prefix}-") and (kind, name) not in there

    for pod in pods(objects):
        account = pod.spec["serviceAccountName"]
        if account == prefix and ("ServiceAccount", account) not in there:
            yield f"{pod.owner} runs as {account}, which is not there"
        for volume in pod.spec.get("volumes", ()):
            for key, kind, field in (
                ("configMap", "ConfigMap", "name"),
                ("secret", "Secret", "secretName"),
                ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
            ):
                if key in volume and missing(kind, volume[key][field]):
                    yield f"{pod.owner} mounts {kind} {volume[key][field]}, which is not there"
        for container in pod.every_container:
            names = [each["name"] for each in container.get("env", ())]
            if len(set(names)) != len(names):
                yield f"{pod.owner}: {container['name']} has a variable twice"
            for each in container.get("env", ()):
                reference = each.get("valueFrom", {}).get("secretKeyRef")
                if reference is None:
                    continue
                secret = there.get(("Secret", reference["name"]))
                if missing("Secret", reference["name"]):
                    yield f"{pod.owner} reads secret {reference['name']}, which is not there"
                elif secret is not None and reference["key"] not in secret["data"]:
                    yield f"{pod.owner} reads {reference['key']} of {reference['name']}, which has no such key"
    for item in of_kind(objects, "StatefulSet"):
        if ("Service", item["spec"]["serviceName"]) not in there:
            yield f"{named(item)} is governed by a service that is not there"


def fullname(objects: list[Object]) -> str:
    (server,) = [
        item for item in of_kind(objects, "Service") if item["metadata"]["name"].endswith("-server-headless")
    ]
    return str(server["metadata"]["name"].removesuffix("-server-headless"))


def addresses_lead_to_services(objects: list[Object]) -> Iterator[str]:
    services = {item["metadata"]["name"]: item["spec"] for item in of_kind(objects, "Service")}
    prefix = fullname(objects)
    text = yaml.safe_dump(
        [
            item
            for item in objects
            if item["kind"] not in ("PrometheusRule", "Secret") and "adapter" not in named(item)
        ]
    )
    for host, port in set(re.findall(rf"({re.escape(prefix)}-[a-z-]+):(\d+)", text)):
        if int(port) not in {each["port"] for each in services.get(host, {"ports": ()})["ports"]}:
            yield f"{host}:{port} is an address that no service has"
    config = "".join(
        item["data"].get("envoy.yaml", "") for item in of_kind(objects, "ConfigMap") if "data" in item
    )
    for host, port in re.findall(rf"address: ({re.escape(prefix)}-[a-z-]+), port_value: (\d+)", config):
        if int(port) not in {each["port"] for each in services.get(host, {"ports": ()})["ports"]}:
            yield f"the proxy asks port {port} of {host}, which has none"
    headless = services[f"{prefix}-server-headless"]
    if headless.get("clusterIP") != "None":
        yield "the headless service has an address of its own: one pod would get every stream"


def names_and_labels_fit(objects: list[Object]) -> Iterator[str]:
    seen: set[tuple[str, str]] = set()
    for item in objects:
        name = item["metadata"]["name"]
        if not NAME.fullmatch(name) or len(name) > 63:
            yield f"{named(item)}: the name has {len(name)} characters, or wrong ones"
        if (item["kind"], name) in seen:
            yield f"{named(item)} is there twice"
        seen.add((item["kind"], name))
        if item["metadata"].get("namespace") != NAMESPACE:
            yield f"{named(item)} is not in the release's namespace"
        for key, value in item["metadata"].get("labels", {}).items():
            if not isinstance(value, str) or len(value) > 63 or not LABEL.fullmatch(value):
                yield f"{named(item)}: label {key} is {value!r}"
    for pod in pods(objects):
        for key, value in pod.labels.items():
            if not isinstance(value, str) or len(value) > 63 or not LABEL.fullmatch(value):
                yield f"{pod.owner}: label {key} of its pods is {value!r}"
