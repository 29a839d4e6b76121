"""Notices callers that went away, and stops inner streams that nobody reads any more.

It knows requests in flight and time. It does not know answers or admission.

One thread asks for all requests, so a caller that leaves is noticed also while no token arrives (during a
long prefill). Stop requests are sent from a few threads of their own, so one that hangs does not keep the
rest waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ensemble.options import Options
from ensemble.postprocessing.call import Call

POLL_S = 0.05
"""How often each caller is asked whether it is still there."""
STOP_INTERVAL_S = 0.1
"""How often a stop request is repeated while its inner stream goes on: one that comes too early is lost."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Flight:
    """One admitted request, shared by its thread and the watcher. `name` is for the log."""

    call: Call
    options: Options
    inner_id: str
    started_s: float
    ended: bool = False  # the caller got its last response; `call` may not be asked any more
    cancelled: bool = False
    stop_at_s: float | None = None  # when the next stop request is due; None: the inner stream may go on
    stopping: bool = False  # a stop request is on its way
    turn: threading.RLock = field(default_factory=threading.RLock)  # held by whoever asks or answers the call

    @property
    def name(self) -> str:
        """Our id and the client's."""
        return f"{self.inner_id} (client's id {self.call.request_id!r})"

    def end(self, stop_in_s: float) -> None:
        """Nobody may ask the call from here on; an inner stream that outlives `stop_in_s` is stopped."""
        with self.turn:
            self.ended = True
        self.stop_at_s = time.monotonic() + stop_in_s


class Watcher:
    """Looks after flights from `add` to `remove`."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._stoppers = ThreadPoolExecutor(4, thread_name_prefix="stop")
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._thread.start()

    def add(self, flight: Flight) -> None:
        """Look after this flight from now on."""
        with self._lock:
            self._flights[flight.inner_id] = flight
        self._wake.set()

    def remove(self, flight: Flight) -> None:
        """The inner stream of this flight has ended."""
        with self._lock:
            del self._flights[flight.inner_id]

    def wake(self) -> None:
        """Look for due stop requests now."""
        self._wake.set()

    def close(self) -> None:
        """End all threads."""
        self._closed = True
        self._wake.set()
        self._thread.join()
        self._stoppers.shutdown(wait=True)

    def _watch(self) -> None:
        poll_at_s = 0.0
        while not self._closed:
            self._wake.wait(POLL_S if self._flights else None)
            self._wake.clear()
            with self._lock:
                flights = list(self._flights.values())
            now_s = time.monotonic()
            if now_s >= poll_at_s:
                poll_at_s = now_s + POLL_S
                for flight in flights:
                    _ask(flight)
            for flight in flights:
                self._stop_if_due(flight)

    def _stop_if_due(self, flight: Flight) -> None:
        now_s = time.monotonic()
        if flight.stopping or flight.stop_at_s is None or now_s < flight.stop_at_s:
            return
        flight.stopping = True
        flight.stop_at_s = now_s + STOP_INTERVAL_S
        self._stoppers.submit(self._stop, flight)

    def _stop(self, flight: Flight) -> None:
        try:
            if flight.inner_id in self._flights:
                flight.call.stop(flight.inner_id)
        except Exception:
            # Not the end of it: the stop request is repeated.
            _log.exception("request %s: stop request failed", flight.name)
        finally:
            flight.stopping = False


def _ask(flight: Flight) -> None:
    with flight.turn:
        if flight.ended or flight.cancelled:
            return
        try:
            flight.cancelled = flight.call.is_cancelled()
        except Exception:
            # The watcher serves all requests and outlives one that cannot be asked.
            _log.exception("request %s: asking whether it is cancelled failed", flight.name)
        if flight.cancelled:
            flight.stop_at_s = time.monotonic()
