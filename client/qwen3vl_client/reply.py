"""What comes back: pieces while the answer is written, and the whole at its end. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """A piece of the answer: whole characters, and the tokens behind them (a character may take several).

    `token_logprobs` is empty unless `logprobs` was asked for; `finish_reason` is None but on the last piece.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    token_logprobs: tuple[float, ...] = ()
    finish_reason: str | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens of the request. `cached_tokens` of the prompt were not computed again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Timings:
    """Milliseconds as the server measured them, and as the caller saw them, network and retries included."""

    time_to_first_token_ms: float | None
    total_ms: float | None
    client_time_to_first_token_ms: float
    client_total_ms: float
    attempts: int


@dataclass(frozen=True)
class Reply:
    """A whole answer.

    Attributes:
        finish_reason: "stop" (end of the answer, or a stop string) or "length" (a limit was reached).
        confidence: geometric mean of the token probabilities, 0 to 1; None if the server did not say.
    """

    text: str
    finish_reason: str
    confidence: float | None
    usage: Usage
    timings: Timings
    request_id: str
    token_ids: tuple[int, ...] = ()
    token_logprobs: tuple[float, ...] = ()

    def __str__(self) -> str:
        return self.text
