"""A way to Triton over gRPC: the project's own client, a few connections for all users of this process.

A connection hands over its messages one at a time, each by way of gevent's loop. That, not the processor, is what a
generator runs short of first on a busy machine, so there are several.

The client does not try again by itself here (`retries=0`): a refused request has to be seen.
"""

from __future__ import annotations

import time
from itertools import count
from typing import Final

from qwen3vl_client import Client, ClientError, TimedOut, Timeout, Unavailable

from loadtests.scenarios import CANCEL_AFTER_CHUNKS, Question
from loadtests.targets import TIMEOUT_S, Failure
from loadtests.trace import Progress

CONNECTIONS: Final = 8


class TritonConnection:
    """See `targets.Connection`."""

    def __init__(self, address: str) -> None:
        limits = Timeout(**TIMEOUT_S)
        self._clients = [Client(address, retries=0, timeout=limits) for _ in range(CONNECTIONS)]
        self._turn = count()

    def ask(self, question: Question, progress: Progress) -> None:
        """See `targets.Connection`."""
        try:
            self._read(question, progress)
        except ClientError as error:
            cause = type(error).__name__
            away = isinstance(error, Unavailable)
            if isinstance(error, TimedOut):
                cause, away = f"{cause}({error.which})", error.which == "connect"
            raise Failure(cause, away) from error

    def close(self) -> None:
        """See `targets.Connection`."""
        for client in self._clients:
            client.close()

    def _read(self, question: Question, progress: Progress) -> None:
        chunks = 0
        client = self._clients[next(self._turn) % CONNECTIONS]
        with client.stream(
            question.messages,
            images=list(question.images),
            videos=list(question.videos),
            max_tokens=question.max_tokens,
        ) as stream:
            for chunk in stream:
                progress.tokens += len(chunk.token_ids)
                if not chunk.text:
                    continue
                progress.heard(chunk.text)
                chunks += 1
                if question.cancel and chunks == CANCEL_AFTER_CHUNKS:
                    progress.outcome = "cancelled"
                    return
                if question.pause_s:
                    time.sleep(question.pause_s)
                    progress.paused(question.pause_s)
        usage = stream.reply.usage
        progress.tokens, progress.prompt_tokens = usage.completion_tokens, usage.prompt_tokens
        progress.cached_tokens = usage.cached_tokens
        progress.outcome = "complete"
