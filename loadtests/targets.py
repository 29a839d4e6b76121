"""Where requests go: one server, or a list of them of which a refused request tries the next.

It knows addresses and failover. How a request travels is known to `triton` (gRPC) and `openai` (HTTP).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Final, Protocol

from loadtests.scenarios import Question
from loadtests.trace import Progress, Trace

TIMEOUT_S: Final = {"connect": 5.0, "first_token": 60.0, "idle": 30.0}
"""Limits of a request. One that passes counts as a failure: a server that is full has to refuse, not to hang."""


class Failure(Exception):
    """A request that got no whole answer.

    Attributes:
        cause: name of the error's class.
        rejected: the server did not take the request (full, draining, away), so another one may.
    """

    def __init__(self, cause: str, rejected: bool) -> None:
        super().__init__(cause)
        self.cause, self.rejected = cause, rejected


class Connection(Protocol):
    """A way to one server."""

    def ask(self, question: Question, progress: Progress) -> None:
        """Sends, reads to the end (or leaves, as the question says) and fills `progress`. Raises Failure."""

    def close(self) -> None:
        """Closes it; streams under way are cancelled."""


class Targets:
    """Servers that take requests in turn.

    Args:
        addresses: HOST:PORT of Triton's gRPC port, or http://HOST:PORT of an OpenAI-compatible server.
        record: takes the trace of every request, whatever became of it.
    """

    def __init__(self, addresses: Sequence[str], record: Callable[[Trace], None]) -> None:
        if not addresses or not all(addresses):
            raise ValueError(f"target: got {','.join(addresses)!r}; allowed: HOST:PORT[,HOST:PORT...]")
        self.addresses = tuple(addresses)
        self._connections = [connect(address) for address in addresses]
        self._record = record
        self._turn = count()

    def ask(self, question: Question, intended_s: float) -> str | None:
        """The answer's text, None unless it is complete; tried on as many servers as it takes.

        The request is always recorded, also when its greenlet is killed.
        """
        progress = Progress(question.scenario, intended_s)
        first = next(self._turn)
        try:
            for number in range(len(self._connections)):
                index = (first + number) % len(self._connections)
                progress.target = self.addresses[index]
                progress.attempts += 1
                try:
                    self._connections[index].ask(question, progress)
                    break
                except Failure as failure:
                    rejected = failure.rejected and progress.first_text_s is None
                    last = number == len(self._connections) - 1
                    if last or not rejected:
                        progress.outcome = "rejected" if rejected else "failed"
                        progress.cause = failure.cause
                        break
        finally:
            self._record(progress.close())
        return progress.text if progress.outcome == "complete" else None

    def close(self) -> None:
        """Closes every connection."""
        for connection in self._connections:
            connection.close()


def connect(address: str) -> Connection:
    """The connection for an address, by its scheme."""
    if address.startswith(("http://", "https://")):
        from loadtests.openai import OpenAIConnection

        return OpenAIConnection(address)
    from loadtests.triton import TritonConnection

    return TritonConnection(address)
