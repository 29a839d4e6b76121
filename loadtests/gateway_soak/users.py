"""Customers of the gateway who come back for as long as they are told: chats, tickets, broken pictures, second thoughts.

It knows the gateway's HTTP API and what each request must lead to. It does not know what the processes behind it hold.
"""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, Final

import httpx

from loadtests.benchmarks.questions import Question

SHARES: Final = {"chat": 45, "ticket": 30, "walk away": 15, "broken picture": 10}
"""Of a hundred requests. A customer who walks away closes the connection while the answer is being written."""
_FORGET: Final = 0.3
"""Of conversations that are deleted at once, with their pictures."""
_ANEW: Final = 0.7
"""Of questions that were never asked before; the others may be answered from the cache."""
_TICKET_S: Final = 90.0
_POLL_S: Final = 0.25
_FINAL: Final = ("answered", "handed_off", "failed")


class Wrong(Exception):
    """A reply that is not what the request must lead to."""


class Tally:
    """What all users did, and the first of what went wrong. Safe from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: Counter[str] = Counter()
        self._failed: list[str] = []

    def add(self, kind: str, failure: str = "") -> None:
        """One more; `failure` says what was wrong with it."""
        with self._lock:
            if failure:
                self._failed.append(f"{kind}: {failure}")
            else:
                self._done[kind] += 1

    @property
    def done(self) -> dict[str, int]:
        """Of each kind."""
        with self._lock:
            return dict(sorted(self._done.items()))

    @property
    def failed(self) -> list[str]:
        """All failures, in words."""
        with self._lock:
            return list(self._failed)


class User(threading.Thread):
    """One customer after the other, of one connection.

    Args:
        url: of the gateway.
        number: of this user; with `seed` it decides all that the user does.
        questions: of which the user asks.
        pause_s: mean time between a reply and the next request.
        tally: where it is counted.
        stop: when set, the user ends after the request that is under way.
    """

    def __init__(
        self,
        url: str,
        seed: int,
        number: int,
        questions: Sequence[Question],
        pause_s: float,
        tally: Tally,
        stop: threading.Event,
    ) -> None:
        super().__init__(name=f"user-{number}", daemon=True)
        self._url, self._name, self._questions = url, f"soak-{seed}-{number}", questions
        self._pause_s, self._tally, self._stopping = pause_s, tally, stop
        self._random = Random(f"{seed} {number}")

    def run(self) -> None:
        """Ask until told to stop."""
        turn = 0
        with httpx.Client(base_url=self._url, timeout=120, trust_env=False) as http:
            while not self._stopping.is_set():
                turn += 1
                (kind,) = self._random.choices([*SHARES], [*SHARES.values()])
                try:
                    self._ask(http, kind, f"{self._name}-{turn}")
                except (Wrong, httpx.HTTPError, ValueError) as error:
                    self._tally.add(kind, f"{type(error).__name__}: {error}"[:300])
                else:
                    self._tally.add(kind)
                self._stopping.wait(self._pause_s * self._random.uniform(0.5, 1.5))

    def _ask(self, http: httpx.Client, kind: str, conversation: str) -> None:
        question = self._random.choice(self._questions)
        words = f"{question.text} ({conversation})" if self._random.random() < _ANEW else question.text
        # Half a JPEG file is no picture: the gateway must say so, and keep nothing of it.
        picture = (
            question.picture[: len(question.picture) // 2] if kind == "broken picture" else question.picture
        )
        body = _body(words, picture, conversation)
        forget = self._random.random() < _FORGET
        if kind == "broken picture":
            _expect(http.post("/v1/chat/completions", json=body), 400)
        elif kind == "walk away":
            _stream(http, body, whole=False)
        else:
            if kind == "chat":
                _stream(http, body, whole=True)
            else:
                _ticket(http, body)
            if forget:
                _expect(http.delete(f"/v1/conversations/{conversation}"), 204)


def _body(words: str, picture: bytes, conversation: str) -> dict[str, Any]:
    url = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": words}]
    return {
        "messages": [{"role": "user", "content": content}],
        "customer_service": {"conversation_id": conversation},
    }


def _stream(http: httpx.Client, body: dict[str, Any], whole: bool) -> None:
    with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as reply:
        if reply.status_code != 200:
            reply.read()
            _expect(reply, 200)
        last = ""
        for line in reply.iter_lines():
            if '"error"' in line:
                raise Wrong(line)
            last = line or last
            if not whole and last:
                return  # closes the connection
    if last != "data: [DONE]":
        raise Wrong(f"the stream ended with {last!r}")


def _ticket(http: httpx.Client, body: dict[str, Any]) -> None:
    made = http.post("/v1/tickets", json=body)
    _expect(made, 202)
    path, give_up_s = f"/v1/tickets/{made.json()['ticket_id']}", time.monotonic() + _TICKET_S
    while (state := _expect(http.get(path), 200).json()["state"]) not in _FINAL:
        if time.monotonic() > give_up_s:
            raise Wrong(f"{path} is {state} after {_TICKET_S:.0f} s")
        time.sleep(_POLL_S)
    if state == "failed":
        raise Wrong(f"{path} failed")


def _expect(reply: httpx.Response, status: int) -> httpx.Response:
    if reply.status_code != status:
        raise Wrong(
            f"{reply.request.method} {reply.request.url.path}: got {reply.status_code} {reply.text[:200]}"
        )
    return reply
