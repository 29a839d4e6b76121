"""Asks a server again and again whether it still answers, the way that its callers ask.

It knows the question and counts answers. It knows neither processes nor how long is too long.

The question is a goodbye that names no answer (`options.CANCEL`): it goes through Triton's stream handler and the public model's
process and costs less than a millisecond. A health page would not do: Triton 2.51 can stand still in the handler of its streams
while its HTTP threads answer (docs/decisions/0009).
"""

from __future__ import annotations

import threading
from typing import Final

import numpy as np

from ensemble.contract import CONTRACT, ENTRY
from ensemble.loopback import Loopback
from ensemble.options import CANCEL

EVERY_S: Final = 5.0
_QUESTION: Final = {"messages": np.array([b""], dtype=np.object_)}


class Heartbeat:
    """Asks in a thread of its own, so that an answer that does not come keeps nobody else waiting.

    Args:
        target: HOST:PORT of the server's gRPC port.
        every_s: seconds between an answer and the next question.

    Attributes:
        answers: how many came so far.
    """

    def __init__(self, target: str, every_s: float = EVERY_S) -> None:
        self.answers = 0
        self._loopback = Loopback(target)
        self._every_s = every_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more. A question under way may be answered for a second, for a cut is what hurts Triton; then it is cut."""
        self._closed.set()
        self._thread.join(1.0)
        self._loopback.close()
        self._thread.join()

    def _ask(self) -> None:
        while not self._closed.wait(self._every_s):
            # Nothing comes but the end. A text is an error, of the connection too: no sign of life.
            if not list(self._loopback.call(CONTRACT[ENTRY], "heartbeat", _QUESTION, {CANCEL: "nobody"})):
                self.answers += 1
