"""Starts a real server with `python -m ensemble serve`, as a user would, and makes sure that nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ensemble.process import find_stubs

READY_S = 120.0
EXIT_S = 20.0


@dataclass(frozen=True)
class Server:
    """A running server; `process` is the supervisor."""

    process: subprocess.Popen[bytes]
    triton_pid: int
    grpc_url: str
    http_url: str
    metrics_url: str
    directory: Path

    def stub_pid(self, model: str) -> int:
        """The Python process of a model with one instance."""
        (stub,) = (stub for stub in find_stubs(self.triton_pid) if stub.model == model)
        return stub.pid

    def pids(self) -> list[int]:
        """Every process of the server."""
        return [self.process.pid, self.triton_pid, *(stub.pid for stub in find_stubs(self.triton_pid))]

    def log(self) -> str:
        """What the supervisor and Triton wrote."""
        files = (self.directory / "serve.log", self.directory / "triton.log")
        return "\n".join(file.read_text(errors="replace") for file in files if file.exists())


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has asked for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@contextmanager
def serving(
    engines: Path,
    expect_exit: int | None = 0,
    arguments: tuple[str, ...] = (),
    program: str = "ensemble",
) -> Iterator[Server]:
    """A ready server. At the end it is told to exit; `expect_exit` is checked unless None, leftovers always.

    `program` is the module whose command `serve` starts it.
    """
    with tempfile.TemporaryDirectory(prefix="served-") as name:
        directory = Path(name)
        server = _start(engines, directory, arguments, program)
        pids = server.pids()
        try:
            yield server
        finally:
            _end(server, pids, expect_exit)
        left = _wait_gone(pids)
        assert not left, f"processes left behind: {left}\n{server.log()}"
        shared = list(Path("/dev/shm").glob(f"qwen3vl-serve-{server.process.pid}-*"))
        # A supervisor that was killed cannot tidy up; the next one does it.
        assert not shared or server.process.returncode == -signal.SIGKILL, (
            f"shared memory left behind: {shared}"
        )


def _start(engines: Path, directory: Path, arguments: tuple[str, ...], program: str) -> Server:
    ready_file = directory / "ready.json"
    command = [sys.executable, "-m", program, "serve", "--engines", str(engines), "--free-ports"]
    command += ["--ready-file", str(ready_file), "--log-dir", str(directory), *arguments]
    with (directory / "serve.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    end = time.monotonic() + READY_S
    while not ready_file.exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            process.wait()
            raise AssertionError(f"the server did not start:\n{(directory / 'serve.log').read_text()}")
        time.sleep(0.05)
    facts = json.loads(ready_file.read_text())
    host = facts["host"]
    return Server(
        process,
        facts["triton_pid"],
        grpc_url=f"{host}:{facts['grpc_port']}",
        http_url=f"http://{host}:{facts['http_port']}",
        metrics_url=f"http://{host}:{facts['metrics_port']}",
        directory=directory,
    )


def _end(server: Server, pids: list[int], expect_exit: int | None) -> None:
    process = server.process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(EXIT_S)
    except subprocess.TimeoutExpired:
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        raise AssertionError(f"still there {EXIT_S} s after SIGTERM\n{server.log()}") from None
    if expect_exit is not None:
        assert process.returncode == expect_exit, server.log()


def _wait_gone(pids: list[int], seconds: float = 5.0) -> list[int]:
    end = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    return left
