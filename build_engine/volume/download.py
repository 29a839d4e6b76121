"""Downloads that are continued where they were cut off, several files at once.

It knows partial files and their digests; what a checkpoint is, or a source, it does not know. A partial file lies in a
folder that is named by the version it belongs to, so it is never continued with another content.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from build_engine.manifest import sha256
from build_engine.volume import FailedError
from build_engine.volume.source import RemoteFile, Source

_AT_ONCE: Final = 4
_LINE_EVERY_S: Final = 30.0
_BEGIN_ANEW_BYTES: Final = 1 << 20
"""Smaller files are not continued: servers may send them compressed, where an offset means something else."""
_SPARE_BYTES: Final = 16 << 20


class Downloads:
    """Partial and finished files of `source` below `part`."""

    def __init__(self, source: Source, part: Path) -> None:
        self._source, self._part = source, part
        self._stop = threading.Event()

    def path(self, file: RemoteFile) -> Path:
        """Where a file lies, whole or in part."""
        version = hashlib.sha256(f"{self._source.name} {file.version}".encode()).hexdigest()[:12]
        return self._part / version / file.name

    def remove_all_but(self, files: Iterable[RemoteFile]) -> None:
        """Remove what belongs to other versions than these."""
        wanted = {self.path(file).parent for file in files}
        for folder in [path for path in self._part.iterdir() if path not in wanted]:
            shutil.rmtree(folder, ignore_errors=True)

    def check_space(self, files: Sequence[RemoteFile]) -> None:
        """FailedError when the volume cannot take what is missing of `files`."""
        missing = sum(file.size for file in files) - self._had(files) + _SPARE_BYTES
        free = shutil.disk_usage(self._part).free
        if missing > free:
            raise FailedError(
                f"too little space in {self._part.parent}: {_gigabytes(missing)} are missing, {_gigabytes(free)} are free; "
                "take a larger volume"
            )

    def run(self, files: Sequence[RemoteFile]) -> dict[str, str]:
        """Bring `files` here and check them; gives the sha256 of each. FailedError and AbsentError as `Source` raises them."""
        with ThreadPoolExecutor(_AT_ONCE) as pool, _Progress(sum(file.size for file in files)) as progress:
            futures = {file.name: pool.submit(self._complete, file) for file in files}
            try:
                running = set(futures.values())
                while running:
                    done, running = wait(running, timeout=1, return_when=FIRST_EXCEPTION)
                    progress.show(self._had(files))
                    for future in done:
                        future.result()
            except BaseException:
                self._stop.set()  # also on SIGTERM: the others end at their next piece
                for future in futures.values():
                    future.cancel()
                raise
        return {name: future.result() for name, future in futures.items()}

    def _complete(self, file: RemoteFile) -> str:
        path = self.path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.size < _BEGIN_ANEW_BYTES or (path.exists() and path.stat().st_size > file.size):
            path.unlink(missing_ok=True)
        with _Part(path, self._stop) as part:
            if part.tell() < file.size:
                self._source.append(file, part.tell(), part)
        if (size := path.stat().st_size) != file.size:
            path.unlink()
            raise FailedError(f"{file.name} came with {size} bytes instead of {file.size}; run this again")
        digest = sha256(path)
        if file.sha256 not in (None, digest):
            path.unlink()
            raise FailedError(
                f"{file.name} came damaged: sha256 {digest}, the source says {file.sha256}. It was removed; run this again"
            )
        return digest

    def _had(self, files: Sequence[RemoteFile]) -> int:
        return sum(min(_size(self.path(file)), file.size) for file in files)


class _Part(io.BufferedWriter):
    """A file that is written at its end, until told to stop."""

    def __init__(self, path: Path, stop: threading.Event) -> None:
        super().__init__(io.FileIO(path, "a"))
        self._stop = stop

    def write(self, piece: Any, /) -> int:
        if self._stop.is_set():
            raise InterruptedError("another file failed")
        return super().write(piece)


class _Progress:
    """A bar on a terminal, a line from time to time in a log."""

    def __init__(self, total: int) -> None:
        self._total, self._started, self._told = total, time.monotonic(), time.monotonic()
        self._at_start: int | None = None
        options: dict[str, Any] = {"unit": "B", "unit_scale": True, "desc": "fetch", "leave": False}
        self._bar = tqdm(total=total, disable=not sys.stderr.isatty(), file=sys.stderr, **options)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, had: int) -> None:
        """`had`: bytes that are here."""
        self._bar.update(had - self._bar.n)
        now = time.monotonic()
        if self._at_start is None:
            self._at_start = had
        if self._bar.disable and now - self._told >= _LINE_EVERY_S:
            self._told = now
            speed = (had - self._at_start) / (now - self._started)
            left = f", {(self._total - had) / speed / 60:.0f} min left" if speed else ""
            print(
                f"{_gigabytes(had)} of {_gigabytes(self._total)} ({speed / 1e6:.0f} MB/s{left})",
                file=sys.stderr,
            )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
