"""What a development stack holds at a moment: memory and files of its processes, its media beside the database's rows.

It knows /proc, /dev/shm and the layout of `gateway dev`'s state directory. It judges nothing.
"""

from __future__ import annotations

import json
import sqlite3
import time
import urllib.request
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from loadtests.resources import descendants, gauges


@dataclass(frozen=True)
class Held:
    """By one part of the stack, all its processes together. `resident` in bytes, without shared memory."""

    processes: int
    resident: int
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Sample:
    """One look.

    Attributes:
        at_s: since the beginning of the load.
        parts: by name; one that has died holds nothing.
        vision_cache: bytes of Triton's that have a budget of their own.
        objects: stored media, of `object_bytes`.
        unreferenced: of them, those that no row names.
        missing: media that a row names and that are not stored.
        unfinished: halves of media, which a crash leaves.
        database_bytes: of the database's files.
        temporary: entries in the stack's directory for temporary files.
        shared: entries in /dev/shm, of `shared_bytes`.
    """

    at_s: float
    parts: Mapping[str, Held]
    vision_cache: int
    objects: int
    object_bytes: int
    unreferenced: int
    missing: int
    unfinished: int
    database_bytes: int
    temporary: int
    shared: int
    shared_bytes: int


class Watch:
    """Looks at one stack.

    Args:
        state: its directory.
        temporary: its TMPDIR.
        pids: of its parts.
    """

    def __init__(self, state: Path, temporary: Path, pids: Mapping[str, int]) -> None:
        self._state, self._temporary, self._pids = state, temporary, pids
        facts = json.loads((state / "triton.ready.json").read_text())
        self._metrics = f"http://{facts['host']}:{facts['metrics_port']}/metrics"
        self._start_s = time.monotonic()

    def look(self) -> Sample:
        """What is there now. Media come and go while it looks: only of an idle stack are their numbers exact."""
        sizes = dict(_sizes(self._state / "objects"))
        stored = {name for name in sizes if not name.endswith(".part")}
        named = self._named()
        shared = dict(_shared(self._pids["triton"]))
        return Sample(
            at_s=round(time.monotonic() - self._start_s, 1),
            parts={name: _held(pid) for name, pid in self._pids.items()},
            vision_cache=self._vision_cache(),
            objects=len(stored),
            object_bytes=sum(sizes.values()),
            unreferenced=len(stored - named),
            missing=len(named - stored),
            unfinished=len(sizes) - len(stored),
            database_bytes=sum(file.stat().st_size for file in self._state.glob("gateway.db*")),
            temporary=sum(1 for _ in self._temporary.iterdir()),
            shared=len(shared),
            shared_bytes=sum(shared.values()),
        )

    def _named(self) -> set[str]:
        with closing(
            sqlite3.connect(f"file:{self._state}/gateway.db?mode=ro", uri=True, timeout=15)
        ) as database:
            return {name for (name,) in database.execute("SELECT DISTINCT object_id FROM media")}

    def _vision_cache(self) -> int:
        try:
            with urllib.request.urlopen(self._metrics, timeout=10) as page:
                return int(gauges(page.read().decode()).get("qwen3vl_vision_cache_bytes", 0))
        except OSError:  # Triton is away; the part that holds nothing says so
            return 0


def left_in_shared_memory(pid: int) -> list[str]:
    """Names in /dev/shm of a Triton that has ended; there must be none."""
    return sorted(name for name, _ in _shared(pid))


def _held(pid: int) -> Held:
    processes = resident = descriptors = threads = 0
    for one in descendants(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            status = dict(line.split(":", 1) for line in Path(f"/proc/{one}/status").read_text().splitlines())
            if "RssAnon" not in status:  # a zombie
                continue
            files = sum(1 for _ in Path(f"/proc/{one}/fd").iterdir())
            processes += 1
            resident += 1024 * sum(int(status[name].split()[0]) for name in ("RssAnon", "RssFile"))
            descriptors += files
            threads += int(status["Threads"])
    return Held(processes, resident, descriptors, threads)


def _sizes(objects: Path) -> list[tuple[str, int]]:
    found = []
    for file in objects.glob("*/*/*"):
        with suppress(FileNotFoundError):
            found.append((file.name, file.stat().st_size))
    return found


def _shared(pid: int) -> list[tuple[str, int]]:
    """`ensemble serve` names its regions by its own process."""
    found = []
    for file in Path("/dev/shm").glob(f"qwen3vl-serve-{pid}-*"):
        with suppress(FileNotFoundError):
            found.append((file.name, 512 * file.stat().st_blocks))
    return found
