"""What a server holds over time: memory and threads of its processes, shared memory, and gauges of its metrics page.

It knows /proc, /dev/shm and the Prometheus text format. Processes can only be watched on their own machine.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

GAUGES: Final = (
    "qwen3vl_requests_in_flight",
    "qwen3vl_active_sequences",
    "qwen3vl_waiting_sequences",
    "qwen3vl_kv_blocks_in_use",
    "qwen3vl_kv_blocks_cached",
    "qwen3vl_vision_cache_bytes",
)
_PRIVATE: Final = ("RssAnon", "RssFile", "RssShmem", "Threads")


@dataclass(frozen=True)
class Sample:
    """One look.

    Attributes:
        at_s: when, on the clock of `trace.now`.
        resident: bytes of each process, by name and id: all resident pages less those of shared memory.
        threads: of each process.
        shared_memory: bytes of the server's files in /dev/shm that are really allocated.
        gauges: of GAUGES, summed over labels; those that the page has.
    """

    at_s: float
    resident: Mapping[str, int]
    threads: Mapping[str, int]
    shared_memory: int
    gauges: Mapping[str, float]


class Watch:
    """Looks at one server.

    Args:
        pid: of `ensemble serve` (or tritonserver); its children belong to it. None: no process is watched.
        metrics_url: http://HOST:PORT of the metrics port; None: no gauges.
    """

    def __init__(self, pid: int | None, metrics_url: str | None) -> None:
        self._pid, self._url = pid, metrics_url.rstrip("/").removesuffix("/metrics") if metrics_url else None

    def look(self, at_s: float) -> Sample:
        """What is there now. Processes that have just ended are left out; OSError if the metrics page is away."""
        resident, threads = {}, {}
        for pid in descendants(self._pid) if self._pid else ():
            if status := _status(pid):
                name = f"{_name(pid)} {pid}"
                resident[name] = 1024 * (status["RssAnon"] + status["RssFile"])
                threads[name] = status["Threads"]
        shared = sum(_shared_memory(self._pid)) if self._pid else 0
        return Sample(at_s, resident, threads, shared, self._gauges())

    def _gauges(self) -> dict[str, float]:
        if self._url is None:
            return {}
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=10) as page:
            return gauges(page.read().decode())


def gauges(page: str) -> dict[str, float]:
    """The values of GAUGES in a metrics page, summed over labels."""
    found: dict[str, float] = {}
    for line in page.splitlines():
        name, _, value = line.replace("{", " {", 1).partition(" ")
        if name in GAUGES:
            found[name] = found.get(name, 0.0) + float(value.rsplit(" ", 1)[-1])
    return found


def growth_per_hour(times: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the least-squares line through the values, per hour; 0 for fewer than two times."""
    if len(times) < 2:
        return 0.0
    mean_t, mean_v = sum(times) / len(times), sum(values) / len(values)
    spread = sum((t - mean_t) ** 2 for t in times)
    slope = sum((t - mean_t) * (v - mean_v) for t, v in zip(times, values, strict=True)) / spread
    return 3600 * slope


def descendants(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            words = children.read_text().split()
        except (FileNotFoundError, ProcessLookupError):  # that thread has ended
            continue
        for word in words:
            yield from descendants(int(word))


def _status(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    pairs = (line.split(":", 1) for line in lines)
    values = {name: int(value.split()[0]) for name, value in pairs if name in _PRIVATE}
    return values if "RssAnon" in values else {}  # a zombie has no memory


def _name(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return "?"
    if words[0].endswith("triton_python_backend_stub") and len(words) > 1:
        return Path(words[1]).parent.parent.name  # REPOSITORY/MODEL/VERSION/model.py
    return "supervisor" if "ensemble" in words else Path(words[0]).name


def _shared_memory(pid: int) -> Iterator[int]:
    """Bytes of the regions that the Python backend of this server has in /dev/shm (`ensemble serve` names them)."""
    for path in Path("/dev/shm").glob(f"qwen3vl-serve-{pid}-*"):
        try:
            yield path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
