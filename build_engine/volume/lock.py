"""A lock for machines that share a volume: files only, so it works over NFS and after its holder was killed.

It knows no engines. It needs a file system with O_EXCL (NFS, CephFS, EFS, Azure Files); mounted object stores have none.

A lock is a row of files, ``NAME-000001``, ``NAME-000002``, ...: the last one counts, and says who holds it. Whoever takes
the lock creates the next one with O_EXCL, so of two that find the same holder dead only one succeeds; with one file that
is removed and made again, the slower of the two would remove the lock of the faster. The last file stays when the lock is
released, as the number must never go back.

A holder touches its file every BEAT_S seconds. It is taken for dead when someone who waits has watched the file unchanged
for STALE_S seconds of their own clock: no two machines need the same time.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

BEAT_S = 10.0
STALE_S = 60.0
POLL_S = 2.0
_DIGITS = 6


class LostError(Exception):
    """Someone else took the lock, because this process did not show that it lives."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, as its file says.

    Attributes:
        started: when it took the lock, UTC.
        released: whether it has ended in order.
    """

    host: str
    pid: int
    started: str
    released: bool = False

    def __str__(self) -> str:
        return f"{self.host} (process {self.pid}, since {self.started})"


_UNKNOWN = Owner("someone", 0, "just now")  # the file is there, what it says not yet


class SharedLock:
    """The lock called `path`; not to be used by several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mine: Path | None = None
        self._owner = _UNKNOWN
        self._beat: subprocess.Popen[bytes] | None = None
        self._watched: tuple[int, int] | None = None  # number and mtime of the last file
        self._since = 0.0

    def holder(self) -> Owner | None:
        """Who holds the lock; None when nobody does, or when the holder was dead for as long as this object looked."""
        return self._next()[1]

    def acquire(self, wait_s: float | None, waiting: Callable[[Owner], None]) -> bool:
        """Take the lock; False when that did not succeed within `wait_s` seconds (None: no limit).

        Args:
            wait_s: 0 tries once.
            waiting: called every POLL_S with the one who holds it.
        """
        end = None if wait_s is None else time.monotonic() + wait_s
        while True:
            number, owner = self._next()
            if number and self._create(number):
                return True
            if end is not None and time.monotonic() >= end:
                return False
            if owner:
                waiting(owner)
            time.sleep(POLL_S if owner else 0.1)  # a network volume may show an old listing for a moment

    def check(self) -> None:
        """LostError when the lock is not held any more, as after a machine that slept."""
        if self._mine is None or _last(self._path) != _number(self._path, self._mine.name):
            raise LostError(
                f"{self._path.name} was taken over by {self.holder() or 'someone'}; nothing is changed"
            )

    def release(self) -> None:
        """Let others have it."""
        if self._beat is not None:
            assert self._beat.stdin is not None
            self._beat.stdin.close()  # it ends when its input does, also when this process is killed
            self._beat.wait()
            self._beat = None
        if self._mine is not None:
            mine, self._mine = self._mine, None
            with suppress(OSError):  # a full or vanished volume: it goes stale instead
                if _last(self._path) == _number(self._path, mine.name):
                    _write(mine, replace(self._owner, released=True))

    def _next(self) -> tuple[int, Owner | None]:
        """(number to create, None), or (0, who holds it); (0, None) when it changed just now."""
        last = _last(self._path)
        if not last:
            return 1, None
        seen = _read(self._file(last))
        if seen is None:
            return 0, None
        owner, mtime = seen
        if owner.released:
            return last + 1, None
        if self._watched != (last, mtime):
            self._watched, self._since = (last, mtime), time.monotonic()
        elif time.monotonic() - self._since > STALE_S:
            return last + 1, None
        return 0, owner

    def _create(self, number: int) -> bool:
        mine = self._file(number)
        try:
            os.close(os.open(mine, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            return False
        try:
            owner = Owner(
                socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            )
            _write(mine, owner)
        except OSError:
            mine.unlink(missing_ok=True)
            raise
        # Who was asleep between looking and creating may have made a number that is long past.
        if _last(self._path) != number:
            mine.unlink(missing_ok=True)
            return False
        self._mine, self._owner = mine, owner
        for name in os.listdir(self._path.parent):
            if 0 < _number(self._path, name) < number:
                with suppress(OSError):
                    mine.with_name(name).unlink()
        # A process of its own: a library that holds the interpreter for a minute would let a thread's beat fail.
        command = [sys.executable, "-I", "-S", __file__, str(mine), str(BEAT_S)]
        self._beat = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        return True

    def _file(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}-{number:0{_DIGITS}}")


def _number(path: Path, name: str) -> int:
    """Of the file `name`; 0 when it is none of the lock's files."""
    digits = name.removeprefix(f"{path.name}-")
    return int(digits) if digits != name and digits.isdecimal() else 0


def _last(path: Path) -> int:
    """Number of the file that counts, 0 when there is none."""
    try:
        return max((_number(path, name) for name in os.listdir(path.parent)), default=0)
    except FileNotFoundError:
        return 0


def _read(file: Path) -> tuple[Owner, int] | None:
    """Owner and mtime in nanoseconds; None when the file is gone. Opened, because NFS then asks the server."""
    try:
        with file.open("rb") as opened:
            text, mtime = opened.read(), os.fstat(opened.fileno()).st_mtime_ns
    except OSError:
        return None
    try:
        return Owner(**json.loads(text)), mtime
    except (ValueError, TypeError):
        return _UNKNOWN, mtime


def _write(file: Path, owner: Owner) -> None:
    whole = file.with_name(f".{file.name}.new")
    whole.write_text(json.dumps(asdict(owner)) + "\n", encoding="utf-8")
    whole.replace(file)


def _beat(file: Path, every_s: float) -> None:
    """Touch the file until the input ends, which it does with the holder, or until another holds the lock."""
    import select

    lock = file.with_name(file.name.rpartition("-")[0])
    while not select.select([sys.stdin], [], [], every_s)[0]:
        with suppress(OSError):  # the server of the volume may be away for a while
            if _last(lock) != _number(lock, file.name):
                return
            os.utime(file)


if __name__ == "__main__":
    _beat(Path(sys.argv[1]), float(sys.argv[2]))
