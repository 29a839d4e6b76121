"""Engines under keys in a directory that several machines share.

It knows when to wait, to build, to refuse, to remove. Whether engines fit is the work of `fit`, who builds that of `lock`,
building that of `build_engine.build`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from build_engine.manifest import FILE_NAME
from build_engine.request import BuildRequest
from build_engine.section import CheckpointError
from build_engine.volume import AbsentError, FailedError, fit
from build_engine.volume.lock import LostError, SharedLock

LAST_USED = "LAST_USED"
"""A file in an engine directory whose time says when `cached` last used it."""
POLL_S = 5.0
LINE_EVERY_S = 30.0


@dataclass(frozen=True)
class Cache:
    """Engines of `request` under `directory`/`key`.

    Attributes:
        checkpoint: its directory; None only to check.
        contents: compare the sha256 of every file.
    """

    directory: Path
    key: str
    request: BuildRequest
    checkpoint: Path | None
    contents: bool

    @property
    def engines(self) -> Path:
        """The engine directory."""
        return self.directory / self.key

    @property
    def lock(self) -> SharedLock:
        """The lock of this key."""
        return SharedLock(self.directory / f".{self.key}.lock")

    def check(self) -> None:
        """Raises what `fit.check` raises, and CheckpointError."""
        if not (self.engines / FILE_NAME).is_file():  # before the checkpoint, which may be on its way too
            raise fit.NotWholeError(f"{self.engines} holds no engines")
        checkpoint = self.request.read_checkpoint(self.checkpoint) if self.checkpoint else None
        fit.check(self.engines, self.request, checkpoint, self.contents)

    def wait(self, wait_s: float) -> None:
        """Until the engines are there and fit. Writes nothing.

        Raises:
            AbsentError: they are not there after `wait_s` seconds.
            fit.OtherError: there are others; waiting does not help.
        """
        lock, end, tell, damaged = self.lock, time.monotonic() + wait_s, _Told(), 0
        while True:
            # Damaged engines are not read again and again: a build replaces the manifest too.
            if not damaged or damaged != self._changed():
                try:
                    return self.check()
                except fit.NotWholeError as error:
                    reason, damaged = str(error), self._changed()
                except CheckpointError as error:
                    reason, damaged = str(error), 0
            now = f"{reason}; {lock.holder() or 'nobody'} builds them"
            if (left := end - time.monotonic()) <= 0:
                raise AbsentError(now)
            tell(f"{now}; waiting, {left:.0f} s left")
            time.sleep(min(POLL_S, left))

    def build(self, wait_s: float | None) -> bool:
        """Build the engines unless they are there; whether that was needed.

        Args:
            wait_s: longest wait for someone else's build; None: no limit.

        Raises:
            fit.OtherError: there are others.
            FailedError: the wait was too long, or another took the lock.
        """
        if self._is_there():
            return False
        self.directory.mkdir(parents=True, exist_ok=True)
        lock, tell = self.lock, _Told()
        if not lock.acquire(wait_s, lambda owner: tell(f"waiting for {owner}, who builds {self.engines}")):
            raise FailedError(f"{lock.holder() or 'someone'} still builds {self.engines} after {wait_s} s")
        try:
            if self._is_there():  # who had the lock has built them
                return False
            self._build(lock.check)
        except LostError as error:
            raise FailedError(str(error)) from error
        finally:
            lock.release()
        return True

    def mark_used(self) -> None:
        """For `keep`."""
        with suppress(OSError):  # read-only, or another user's
            (self.engines / LAST_USED).touch()

    def keep(self, count: int) -> None:
        """Remove all but the `count` engine directories that were used last; this one is never removed."""
        others = [
            path.parent for path in self.directory.glob(f"*/{FILE_NAME}") if path.parent != self.engines
        ]
        others.sort(key=_last_used, reverse=True)
        for old in others[max(count - 1, 0) :]:
            lock = SharedLock(self.directory / f".{old.name}.lock")
            if not lock.acquire(0, lambda owner: None):
                continue  # someone builds there
            try:
                # Renamed first, so that a kill leaves no half engines under the key.
                aside = self.directory / f".{old.name}.building-removed"
                shutil.rmtree(aside, ignore_errors=True)
                old.rename(aside)
                shutil.rmtree(aside)
                print(f"removed {old}: not among the {count} that were used last")
            finally:
                lock.release()

    def _is_there(self) -> bool:
        try:
            self.check()
        except fit.NotWholeError:
            return False
        return True

    def _build(self, before_publish: Callable[[], None]) -> None:
        from build_engine.build import build

        assert self.checkpoint is not None
        checkpoint = self.request.read_checkpoint(self.checkpoint)
        damaged = (self.engines / FILE_NAME).exists()
        print(f"building {self.engines}{', which is damaged' if damaged else ''}", flush=True)
        target = self.request.make_target()
        build(checkpoint, self.engines, target, self.request.limits, damaged, before_publish)

    def _changed(self) -> int:
        try:
            return (self.engines / FILE_NAME).stat().st_mtime_ns
        except OSError:
            return 0


class _Told:
    """Prints at once, and again every LINE_EVERY_S."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, line: str) -> None:
        if time.monotonic() >= self._next:
            print(line, flush=True)
            self._next = time.monotonic() + LINE_EVERY_S


def _last_used(engines: Path) -> float:
    for name in (LAST_USED, FILE_NAME):
        with suppress(OSError):
            return (engines / name).stat().st_mtime
    return 0.0
