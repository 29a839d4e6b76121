"""Starts and ends `python -m ensemble serve` for plans that need servers of their own (rolling restart)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

READY_S = 300.0


class Server:
    """A server on this machine; leaving the block ends it.

    Args:
        engines: directory that build_engine wrote.
        arguments: further words for `ensemble serve`.
    """

    def __init__(self, engines: Path, arguments: list[str]) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="loadtests-server-")
        self._engines, self._arguments = engines, arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.facts: dict[str, Any] = {}

    @property
    def address(self) -> str:
        """HOST:PORT of gRPC."""
        return f"{self.facts['host']}:{self.facts['grpc_port']}"

    def start(self) -> None:
        """Start it, at the ports that it had before, and wait until it is ready. RuntimeError if it ends instead."""
        ready = Path(self._directory.name) / "ready.json"
        ready.unlink(missing_ok=True)
        ports = ["--free-ports"]
        if self.facts:
            kinds = ("grpc", "http", "metrics")
            ports = [word for kind in kinds for word in (f"--{kind}-port", str(self.facts[f"{kind}_port"]))]
        command = [sys.executable, "-m", "ensemble", "serve", "--engines", str(self._engines), *ports]
        log = Path(self._directory.name) / "serve.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "--ready-file", str(ready), *self._arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + READY_S
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.1)
        self.facts = json.loads(ready.read_text())

    def stop(self) -> int:
        """Ask it to drain and wait for its end. Its exit code: 0 if everything in flight was finished."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        code = self._process.wait()
        self._process = None
        return code

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self._directory.cleanup()
