"""Model servers that stand for pods: each has an address of its own on the loopback and all have the same ports, so that one
DNS name can stand for them. They die, come back and end as pods do.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

ANSWERS = 'model="ensemble"'
"""Of the public model the server itself asks something every few seconds (ensemble.heartbeat), which gets no further."""
READY_S, EXIT_S = 120.0, 30.0


def free_ports(count: int, *hosts: str) -> list[int]:
    """Ports that are free on every host."""
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            with ExitStack() as attempt:
                first = attempt.enter_context(socket.socket())
                first.bind((hosts[0], 0))
                port = int(first.getsockname()[1])
                try:
                    for host in hosts[1:]:
                        attempt.enter_context(socket.socket()).bind((host, port))
                except OSError:
                    continue
                stack.enter_context(attempt.pop_all())
                ports.append(port)
        return ports


class Pod:
    """One server. `start` returns at once, `wait_ready` when it serves."""

    def __init__(self, host: str, ports: tuple[int, int, int], engines: Path, directory: Path) -> None:
        self.host, self.engines, self.directory = host, engines, directory
        self.grpc, self.http, self.metrics = ports
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def _ready_file(self) -> Path:
        return self.directory / "ready.json"

    def start(self) -> None:
        assert self.process is None
        self.directory.mkdir(exist_ok=True)
        self._ready_file.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "ensemble",
            "serve",
            f"--engines={self.engines}",
            f"--host={self.host}",
        ]
        command += [f"--grpc-port={self.grpc}", f"--http-port={self.http}", f"--metrics-port={self.metrics}"]
        command += [f"--ready-file={self._ready_file}", f"--log-dir={self.directory}"]
        with (self.directory / "serve.log").open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def wait_ready(self) -> None:
        assert self.process is not None
        end = time.monotonic() + READY_S
        while not self._ready_file.exists():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL for all at once; returns when nothing listens any more."""
        assert self.process is not None
        os.kill(json.loads(self._ready_file.read_text())["triton_pid"], signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.process = None
        while True:
            try:
                socket.create_connection((self.host, self.grpc), timeout=1).close()
            except ConnectionRefusedError:
                return
            except OSError:
                # Reset or unanswered: the kernel is still closing the socket that listened.
                continue

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(EXIT_S)
        self.process = None
        return code

    def log(self) -> str:
        return (self.directory / "serve.log").read_text(errors="replace")

    def count(self, name: str) -> int:
        """The sum of a metric's series of what answers, or of the one that has no labels."""
        with urllib.request.urlopen(f"http://{self.host}:{self.metrics}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        found = [line for line in lines if line.startswith(name) and (ANSWERS in line or "{" not in line)]
        assert found, f"no metric {name}"
        return int(sum(float(line.rsplit(" ", 1)[1]) for line in found))
