"""Counts how requests to the public model ended. It knows errors by their class; it does not know metrics."""

from __future__ import annotations

import threading

from ensemble.errors import EngineFailure, Overloaded, ServingError


class Outcomes:
    """Counts since the start; safe from many threads.

    Attributes:
        taken: requests that came, whatever became of them.
        refused: those that found the server or a queue in it full.
        failed: those that ended with a fault of ours. What callers did wrong is in neither.
    """

    def __init__(self) -> None:
        self.taken = self.refused = self.failed = 0
        self._lock = threading.Lock()

    def take(self) -> None:
        """A request came."""
        with self._lock:
            self.taken += 1

    def fail(self, error: ServingError) -> None:
        """A request ended with this error."""
        with self._lock:
            self.refused += isinstance(error, Overloaded)
            self.failed += isinstance(error, EngineFailure)
