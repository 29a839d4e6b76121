"""One answer in the making: fed with what arrives, it gives chunks, limits, errors and at last the reply.

Does no input or output and never waits, so the sync and the async client share every rule: when an answer is
whole, which limit comes next, what an error means before and after the first token, and when to try again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen3vl_client import wire
from qwen3vl_client.errors import (
    ClientError,
    Interrupted,
    InvalidRequest,
    ServerFault,
    TimedOut,
    classify,
)  # fmt: skip
from qwen3vl_client.reply import Chunk, Reply, Timings, Usage
from qwen3vl_client.retry import Retry
from qwen3vl_client.timeout import Timeout

_DTYPES = {"INT32": "<i4", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8", "BOOL": "?"}


@dataclass(frozen=True)
class Limit:
    """Which limit of `Timeout` comes next, and in how many seconds; infinity where there is none."""

    which: str
    seconds: float


class Generation:
    """The state of one answer over all its attempts."""

    def __init__(
        self,
        request_id: str,
        timeout: Timeout,
        retry: Retry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.request_id, self.timeout, self._retry, self._clock = request_id, timeout, retry, clock
        self.attempts = 0
        self.begun = False  # a piece has arrived: from here on no second attempt
        self.finished = False
        self._began_at = self._attempt_at = clock()
        self._first_ms = 0.0
        self._pieces: list[str] = []
        self._token_ids: list[int] = []
        self._token_logprobs: list[float] = []
        self._last: dict[str, Any] = {}
        self._reply: Reply | None = None

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._pieces)

    @property
    def reply(self) -> Reply:
        """The whole answer; RuntimeError before the end of the stream."""
        if self._reply is None:
            raise RuntimeError("the reply is there when the stream was read to its end")
        return self._reply

    def start_attempt(self) -> None:
        """An attempt is about to be made."""
        self.attempts += 1
        self._attempt_at = self._clock()

    def total_limit(self) -> Limit:
        """What is left of the whole time."""
        if self.timeout.total is None:
            return Limit("total", math.inf)
        return Limit("total", self._began_at + self.timeout.total - self._clock())

    def connect_limit(self) -> Limit:
        """How long an answer to "are you alive?" may take."""
        return min(_limit("connect", self.timeout.connect), self.total_limit(), key=_seconds)

    def message_limit(self) -> Limit:
        """How long the next message may take, asked when the waiting begins."""
        if self.begun:
            next_message = _limit("idle", self.timeout.idle)
        else:
            waited = self._clock() - self._attempt_at
            next_message = _limit("first_token", self.timeout.first_token, waited)
        return min(next_message, self.total_limit(), key=_seconds)

    def receive(self, response: Any) -> Chunk | None:
        """Takes a `ModelStreamInferResponse`; None if it holds no piece. The final marker sets `finished`."""
        if response.error_message:
            raise self.failed(classify(response.error_message))
        message = response.infer_response
        if message.id != self.request_id:
            raise self.failed(
                ServerFault(f"the server sent a piece of another answer, under id {message.id!r}")
            )
        try:
            outputs = _read_outputs(message)
        except ValueError as error:  # UnicodeDecodeError is one
            raise self.failed(ServerFault(f"the server sent outputs that cannot be read: {error}")) from error
        chunk = self._keep(outputs) if "text" in outputs else None
        if wire.is_final(message):
            self.end()
        return chunk

    def end(self) -> None:
        """The stream ended without an error. That alone makes no answer whole: its last piece must say so."""
        if not self._last:
            raise self.failed(ServerFault("the server ended the stream without a finish_reason"))
        self.finished = True
        self._reply = self._compose()

    def failed(self, error: ClientError) -> ClientError:
        """The error to raise for `error`. After the first piece, any failure of the server or of the network
        is an interruption."""
        told = error
        if self.begun and not isinstance(error, InvalidRequest | TimedOut):
            told = Interrupted(f"the answer broke off after {len(self._token_ids)} tokens: {error}")
            told.__cause__ = error
        return self.sign(told)

    def unanswered(self, code: str, text: str, limit: Limit) -> ClientError | None:
        """What a failed "are you alive?" means; None: somebody did answer, so let the request find out."""
        if code == "DEADLINE_EXCEEDED":
            return self.late(limit)
        return self.failed(classify(text, code)) if code == "UNAVAILABLE" else None

    def broken(self, code: str, text: str) -> ClientError:
        """The error for a stream that ended with a gRPC status."""
        if code == "DEADLINE_EXCEEDED" and self.timeout.total is not None:
            return self.late(Limit("total", 0.0))
        return self.failed(classify(text, code))

    def late(self, limit: Limit) -> TimedOut:
        """The error for a limit that has passed."""
        allowed = getattr(self.timeout, limit.which)
        what = {
            "connect": "no answer from the server",
            "first_token": "no first token",
            "idle": "silence in the middle of the answer",
            "total": "the answer took longer than allowed",
        }[limit.which]
        error = TimedOut(f"{what}: {limit.which} timeout of {allowed:g} s", limit.which)
        self.sign(error)
        return error

    def sign(self, error: ClientError) -> ClientError:
        """Writes into `error` what is known of this request."""
        error.request_id, error.attempts = self.request_id, self.attempts
        error.partial_text, error.partial_tokens = self.text, len(self._token_ids)
        return error

    def pause_s(self, error: ClientError) -> float | None:
        """Seconds to wait before another attempt, or None: raise the error."""
        if self.begun:
            return None
        pause = self._retry.pause_s(error, self.attempts)
        return None if pause is None or pause >= self.total_limit().seconds else pause

    def _keep(self, outputs: dict[str, Any]) -> Chunk:
        if not self.begun:
            self.begun = True
            self._first_ms = 1000 * (self._clock() - self._began_at)
        finish_reason = _first(outputs, "finish_reason") or None
        chunk = Chunk(
            _first(outputs, "text") or "",
            tuple(outputs.get("token_ids", ())),
            tuple(outputs.get("token_logprobs", ())),
            finish_reason,
        )
        self._pieces.append(chunk.text)
        self._token_ids += chunk.token_ids
        self._token_logprobs += chunk.token_logprobs
        if finish_reason:
            self._last = outputs
        return chunk

    def _compose(self) -> Reply:
        last = self._last
        return Reply(
            text=self.text,
            finish_reason=_first(last, "finish_reason"),
            confidence=_first(last, "confidence"),
            usage=Usage(
                _first(last, "prompt_tokens") or 0,
                _first(last, "completion_tokens") or len(self._token_ids),
                _first(last, "cached_tokens") or 0,
            ),
            timings=Timings(
                _first(last, "time_to_first_token_ms"),
                _first(last, "total_ms"),
                self._first_ms,
                1000 * (self._clock() - self._began_at),
                self.attempts,
            ),
            request_id=self.request_id,
            token_ids=tuple(self._token_ids),
            token_logprobs=tuple(self._token_logprobs),
        )


def _limit(which: str, seconds: float | None, waited: float = 0.0) -> Limit:
    return Limit(which, math.inf if seconds is None else seconds - waited)


def _seconds(limit: Limit) -> float:
    return limit.seconds


def _first(outputs: dict[str, Any], name: str) -> Any:
    values = outputs.get(name)
    return values[0] if values else None


def _read_outputs(message: Any) -> dict[str, Any]:
    """Tensors by name, as lists of str, int, float or bool; unknown tensors of a newer server come along."""
    return {
        output.name: _strings(raw) if output.datatype == "BYTES" else _numbers(output, raw)
        for output, raw in zip(message.outputs, message.raw_output_contents, strict=True)
    }


def _numbers(output: Any, raw: bytes) -> list[Any]:
    if output.datatype not in _DTYPES:
        return []
    values: list[Any] = np.frombuffer(raw, _DTYPES[output.datatype]).tolist()
    return values


def _strings(raw: bytes) -> list[str]:
    # Triton's BYTES layout: each item after its length, 4 bytes, little endian.
    items, position = [], 0
    while position < len(raw):
        start = position + 4
        position = start + int.from_bytes(raw[position:start], "little")
        items.append(raw[start:position].decode())
    return items
