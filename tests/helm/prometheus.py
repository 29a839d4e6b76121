"""Runs Prometheus and promtool, from Debian's package `prometheus`: installed, or unpacked into .run/tools without being root.

It knows how to start, scrape and ask. It does not know our metrics.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

READY_S = 20.0


@cache
def binary(name: str) -> Path:
    """`prometheus` or `promtool`; RuntimeError that says what to install."""
    if found := shutil.which(name):
        return Path(found)
    place = Path(__file__).parents[2] / ".run" / "tools" / "prometheus"
    program = place / "usr" / "bin" / name
    if not program.exists():
        place.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", "prometheus"], cwd=place, check=True, capture_output=True)
            for package in place.glob("prometheus_*.deb"):
                subprocess.run(["dpkg", "-x", str(package), str(place)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(
                f"{name} is missing and could not be fetched; as root: apt-get install prometheus"
            ) from error
    return program


@dataclass(frozen=True)
class Target:
    """What is scraped, and the labels that the chart's monitors would add."""

    url: str
    component: str
    endpoint: str


@dataclass(frozen=True)
class Sample:
    """One element of a query's result."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def get(self, path: str, **query: str) -> Any:
        """`data` of a reply of the API; AssertionError with Prometheus' own words if it refuses."""
        words = urllib.parse.urlencode(query)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{words}", timeout=10) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[Sample]:
        """The value of an expression now."""
        data = self.get("query", query=expression)
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        return [Sample(each["metric"], float(each["value"][1])) for each in data["result"]]

    def names(self) -> frozenset[str]:
        """Every metric that it has seen."""
        return frozenset(self.get("label/__name__/values"))


@contextmanager
def scraping(
    directory: Path, targets: Sequence[Target], namespace: str, release: str, rules: Sequence[Path]
) -> Iterator[Prometheus]:
    """One that scrapes each second and evaluates `rules` as often."""
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rule) for rule in rules],
        "scrape_configs": [_job(number, each, namespace, release) for number, each in enumerate(targets)],
    }
    file, log = directory / "prometheus.yaml", directory / "prometheus.log"
    file.write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [str(binary("prometheus")), f"--config.file={file}", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={directory / 'data'}", "--log.level=warn"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_ready(process, address, log)
        yield Prometheus(f"http://{address}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _job(number: int, target: Target, namespace: str, release: str) -> dict[str, Any]:
    parts = urllib.parse.urlsplit(target.url)
    labels = {"namespace": namespace, "release": release, "pod": f"{target.component}-{number}"}
    labels |= {"component": target.component, "endpoint": target.endpoint}
    return {
        "job_name": f"{target.component}-{number}",
        "metrics_path": parts.path,
        "static_configs": [{"targets": [parts.netloc], "labels": labels}],
    }


def _wait_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + READY_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, f"not ready after {READY_S} s\n{log.read_text()}"
        try:
            with urllib.request.urlopen(f"http://{address}/-/ready", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
