"""Ends blocking calls whose time is up, since a blocking gRPC iterator cannot wait with a limit itself.

One thread for all calls of a client, alive only while there is a call. Knows clocks and callbacks, no gRPC.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LONGEST_WAIT_S = 3600.0  # infinity and very long limits are more than a condition can wait for


class Watch:
    """One watched call: `due` on the monotonic clock, infinity while nobody waits.

    `end` is called when the time is up; the seconds that it gives are one more limit, None is the end of it.
    """

    def __init__(self, end: Callable[[], float | None]) -> None:
        self.end, self.due, self.expired = end, math.inf, False


class Watchdog:
    """Watches over any number of calls."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watches: set[Watch] = set()
        self._thread: threading.Thread | None = None
        self._wakes_at = math.inf

    def add(self, end: Callable[[], float | None]) -> Watch:
        """Watches over a call that `end` ends; it has no limit yet."""
        watch = Watch(end)
        with self._changed:
            self._watches.add(watch)
        return watch

    def remove(self, watch: Watch) -> None:
        """The call is over."""
        with self._changed:
            self._watches.discard(watch)
            self._changed.notify()

    @contextmanager
    def limit(self, watch: Watch, seconds: float) -> Iterator[None]:
        """Ends the call if the block takes longer than `seconds`; then `watch.expired` is true."""
        self.hurry(watch, seconds)
        try:
            yield
        finally:
            # No lock and no waking: a limit that was lifted only makes the thread look once more.
            watch.due = math.inf

    def hurry(self, watch: Watch, seconds: float) -> None:
        """Ends the call after `seconds`, unless a limit comes first or the block of one is left before."""
        with self._changed:
            watch.due = min(watch.due, time.monotonic() + seconds)
            if watch.due < math.inf and self._thread is None and watch in self._watches:
                self._thread = threading.Thread(target=self._run, name="qwen3vl-watchdog", daemon=True)
                self._thread.start()
            elif watch.due < self._wakes_at:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._watches:
                    self._thread = None
                    return
                now = time.monotonic()
                late = [watch for watch in self._watches if watch.due <= now]
                if not late:
                    self._wakes_at = min(watch.due for watch in self._watches)
                    self._changed.wait(min(self._wakes_at - now, _LONGEST_WAIT_S))
                    self._wakes_at = -math.inf
                    continue
                for watch in late:
                    watch.expired, watch.due = True, math.inf
            for watch in late:
                more = watch.end()
                if more is None:
                    self.remove(watch)
                else:
                    self.hurry(watch, more)
