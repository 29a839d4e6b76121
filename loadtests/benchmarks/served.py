"""A server for a benchmark: `python -m ensemble serve` as a process of its own, and what it costs.

It knows processes and /proc. It does not know what is asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ensemble.process import find_stubs

MODELS: Final = ("qwen3_vl", "preprocessing", "vision_encoder", "tensorrt_llm")
_READY_S = 300.0
_EXIT_S = 30.0


class NotReady(RuntimeError):
    """The server did not start; the text is its output."""


@dataclass(frozen=True)
class Served:
    """A ready server. `ready_s`: seconds from its command to its ready file."""

    pid: int
    triton_pid: int
    grpc_url: str
    http_url: str
    ready_s: float

    def pids(self) -> dict[str, list[int]]:
        """Process ids by what they run: a model's name, `tritonserver`, `supervisor`."""
        found: dict[str, list[int]] = {"supervisor": [self.pid], "tritonserver": [self.triton_pid]}
        for stub in find_stubs(self.triton_pid):
            found.setdefault(stub.model, []).append(stub.pid)
        return found

    def cpu_ms(self) -> dict[str, float]:
        """Processor time since each process began, by what it runs."""
        return {name: sum(map(cpu_ms, pids)) for name, pids in self.pids().items()}

    def statistics(self, model: str) -> dict[str, Any]:
        """Triton's own `inference_stats` of a model."""
        with urllib.request.urlopen(f"{self.http_url}/v2/models/{model}/stats", timeout=10) as reply:
            stats: dict[str, Any] = json.load(reply)["model_stats"][0]["inference_stats"]
        return stats


@contextmanager
def serving(engines: Path, *arguments: str) -> Iterator[Served]:
    """Start a server on free ports and end it again; NotReady if it does not start.

    Args:
        engines: what `build_engine` wrote.
        arguments: further ones of `python -m ensemble serve`.
    """
    with tempfile.TemporaryDirectory(prefix="qwen3vl-bench-") as name:
        directory = Path(name)
        command = [sys.executable, "-m", "ensemble", "serve", "--engines", str(engines), "--free-ports"]
        command += ["--ready-file", str(directory / "ready.json"), "--log-dir", name, *arguments]
        with (directory / "serve.log").open("wb") as log:
            started = time.perf_counter()
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            facts = _wait(process, directory)
            ready_s = time.perf_counter() - started
            host = facts["host"]
            yield Served(
                process.pid,
                facts["triton_pid"],
                f"{host}:{facts['grpc_port']}",
                f"http://{host}:{facts['http_port']}",
                ready_s,
            )
        finally:
            process.terminate()
            try:
                process.wait(_EXIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def cpu_ms(pid: int) -> float:
    """Milliseconds that all threads of a process ran; those that have ended count as well."""
    # utime and stime count whole ticks of 10 ms but know ended threads; benchmarks run many of them.
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 10.0


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process: `resident`, and `own`, of which no other process uses any."""
    found = dict.fromkeys(("Rss", "Private_Clean", "Private_Dirty"), 0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024
    return {"resident": found["Rss"], "own": found["Private_Clean"] + found["Private_Dirty"]}


def _wait(process: subprocess.Popen[bytes], directory: Path) -> dict[str, Any]:
    ready, end = directory / "ready.json", time.monotonic() + _READY_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise NotReady((directory / "serve.log").read_text(errors="replace")[-4000:])
        time.sleep(0.005)
    facts: dict[str, Any] = json.loads(ready.read_text())
    return facts
