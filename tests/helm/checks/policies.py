"""Whether NetworkPolicies let through who speaks, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.helm.chart import Object
from tests.helm.pod_templates import COMPONENT, named, of_kind, pods


def policies_let_through_who_speaks(objects: list[Object]) -> Iterator[str]:
    """And nobody else. Only where there are policies at all."""
    if not of_kind(objects, "NetworkPolicy"):
        return
    components = {pod.component for pod in pods(objects)}
    proxy = "proxy" in components
    model = ("proxy", "internal") if proxy else ("server", "grpc")
    speak = [(who, *model) for who in ("gateway", "worker", "loadtest", "test")]
    speak += [("proxy", "server", "grpc"), ("test", "gateway", "http"), ("server", "server-rank", "node")]
    speak += [
        (who, *what) for who in ("gateway", "worker") for what in (("valkey", "redis"), ("kafka", "kafka"))
    ]
    speak += [("loadtest", "loadtest", "workers")]
    silent = [("loadtest", "valkey", "redis"), ("test", "kafka", "kafka"), ("engine", "server", "grpc")]
    silent += [("kafka", "server", "grpc"), ("valkey", "gateway", "http"), ("server", "gateway", "http")]
    silent += [("engine", "proxy", "internal"), ("kafka", "worker", "worker")]
    for wanted, pairs in ((True, speak), (False, silent)):
        for who, whom, port in pairs:
            if who in components and whom in components:
                open_ = _leaves(objects, who, whom, port) and _enters(objects, who, whom, port)
                if wanted and not open_:
                    yield f"policies keep {who} from {whom}:{port}"
                # What anybody may reach from outside, the silent may reach too.
                if not wanted and open_ and not _open_to_all(objects, whom, port):
                    yield f"policies let {who} reach {whom}:{port}"
    for item in of_kind(objects, "NetworkPolicy"):
        rules = item["spec"].get("egress", ())
        asked = {
            (port["port"], port.get("protocol", "TCP")) for rule in rules for port in rule.get("ports", ())
        }
        if rules and not {(53, "UDP"), (53, "TCP")} <= asked:
            yield f"{named(item)}: its pods cannot ask for names"
    if proxy and _open_to_all(objects, "server", "grpc"):
        yield "everybody may go round the proxy to the server"


def _policy(objects: list[Object], component: str) -> dict[str, Any] | None:
    for item in of_kind(objects, "NetworkPolicy"):
        if item["spec"]["podSelector"]["matchLabels"].get(COMPONENT) == component:
            return dict(item["spec"])
    return None


def _enters(objects: list[Object], who: str, whom: str, port: str) -> bool:
    policy = _policy(objects, whom)
    return policy is None or any(
        _peer(rule.get("from"), who) and _port(objects, rule.get("ports"), whom, port)
        for rule in policy.get("ingress", ())
    )


def _leaves(objects: list[Object], who: str, whom: str, port: str) -> bool:
    policy = _policy(objects, who)
    return policy is None or "Egress" not in policy["policyTypes"] or any(
        _peer(rule.get("to"), whom) and _port(objects, rule.get("ports"), whom, port)
        for rule in policy.get("egress", ())
    )  # fmt: skip


def _open_to_all(objects: list[Object], whom: str, port: str) -> bool:
    policy = _policy(objects, whom)
    return policy is None or any(
        not rule.get("from") and _port(objects, rule.get("ports"), whom, port)
        for rule in policy.get("ingress", ())
    )


def _peer(peers: list[dict[str, Any]] | None, component: str) -> bool:
    """Of the same release; peers by namespace alone are others (Prometheus, KEDA)."""
    return not peers or any(
        peer.get("podSelector", {}).get("matchLabels", {}).get(COMPONENT) == component for peer in peers
    )


def _port(objects: list[Object], ports: list[dict[str, Any]] | None, whom: str, port: str) -> bool:
    numbers = {pod.ports.get(port) for pod in pods(objects) if pod.component == whom}
    return not ports or any(each["port"] == port or each["port"] in numbers for each in ports)
