"""Hands the language model's outputs on from a thread of its own, joined so that fast steps do not flood the path.

It knows streams and time. It does not know Triton: what sending means is told to it.

A message costs the server, the relay and the client together about as much processor time as a step of a small
model (docs/decisions/0008). So the tokens that a stream gets within `interval_s` of its last message wait for
each other and go out as one. The first token never waits, nor does the end of an answer, so neither the time to
the first token nor the time to the last changes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ensemble.language_model.request import Output

_log = logging.getLogger(__name__)

Send = Callable[[Any, Output], None]
"""Sends one output to a response sender."""


@dataclass(eq=False)
class _Stream:
    sender: Any
    outputs: list[Output] = field(default_factory=list)  # not sent yet
    due_s: float = 0.0  # when they go out


class Outbox:
    """Sends the outputs of every stream in their order.

    Args:
        send: sends one output; called on the outbox's thread only.
        interval_s: shortest time between two messages of a stream, its last one aside; 0 joins nothing that is not
            waiting already.
    """

    def __init__(self, send: Send, interval_s: float) -> None:
        self._send = send
        self._interval_s = interval_s
        self._changed = threading.Condition()  # guards all below, and the streams
        self._waiting: dict[_Stream, None] = {}
        self._wakes_s = float("inf")
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def for_sender(self, sender: Any) -> Callable[[Output], None]:
        """A callback that takes one request's outputs, in order; it never waits for a send."""
        stream = _Stream(sender)
        return lambda output: self._put(stream, output)

    def close(self) -> None:
        """Send what is there, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _put(self, stream: _Stream, output: Output) -> None:
        with self._changed:
            stream.outputs.append(output)
            if output.finished:
                stream.due_s = 0.0
            self._waiting[stream] = None
            if stream.due_s < self._wakes_s:
                self._changed.notify()

    def _run(self) -> None:
        while streams := self._due():
            for sender, outputs in streams:
                try:
                    for output in joined(outputs):
                        self._send(sender, output)
                except Exception:
                    # One stream that cannot be written to must not end the others.
                    _log.exception("sending an output")

    def _due(self) -> list[tuple[Any, list[Output]]]:
        """Wait for outputs whose time has come; none when the outbox is closed and empty."""
        with self._changed:
            while self._waiting or not self._closed:
                now_s = time.monotonic()
                due = [s for s in self._waiting if self._closed or s.due_s <= now_s]
                if due:
                    return [self._take(stream, now_s) for stream in due]
                self._wakes_s = min((s.due_s for s in self._waiting), default=float("inf"))
                self._changed.wait(self._wakes_s - now_s if self._waiting else None)
                self._wakes_s = 0.0  # awake: looks again before it sleeps
            return []

    def _take(self, stream: _Stream, now_s: float) -> tuple[Any, list[Output]]:
        del self._waiting[stream]
        outputs, stream.outputs = stream.outputs, []
        stream.due_s = now_s + self._interval_s
        return stream.sender, outputs


def joined(outputs: Sequence[Output]) -> list[Output]:
    """The same tokens in as few outputs as possible: one, and an error by itself."""
    *tokens, last = outputs
    if last.error is not None:
        return [*joined(tokens), last] if tokens else [last]
    return [
        replace(
            last,
            token_ids=tuple(token for output in outputs for token in output.token_ids),
            log_probs=tuple(value for output in outputs for value in output.log_probs),
            # Not every runtime repeats these in its last output.
            num_input_tokens=max(output.num_input_tokens for output in outputs),
            reused_blocks=max(output.reused_blocks for output in outputs),
        )
    ]
