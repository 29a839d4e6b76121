"""One request as the load generator saw it. Values only: nothing here measures, sends or judges.

All times are seconds on one clock, `now`: Unix time that never jumps while the process runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

Outcome = Literal["complete", "cancelled", "rejected", "failed", "aborted"]
"""What became of a request.

complete: the whole answer came. cancelled: the user left on purpose. rejected: refused before its first text (full,
draining or away). failed: any other error. aborted: the load test ended first; no fault of anybody.
"""

_STARTED: Final = time.time() - time.monotonic()


def now() -> float:
    """Seconds of Unix time, read from the monotonic clock."""
    return _STARTED + time.monotonic()


@dataclass(frozen=True)
class Trace:
    """A finished request.

    Attributes:
        scenario: name of the scenario it belongs to.
        intended_s: when it should have been sent: the arrival that was drawn (open loop), or the moment its user was
            free to send it (closed loop).
        sent_s: when it was sent. Later than `intended_s` if the generator itself was late.
        first_text_s: arrival of the first chunk with text; None if none came.
        gaps_s: time from each chunk with text to the next, less the reader's own pauses.
        end_s: end of the answer, of the error, or of the waiting.
        paused_s: the reader's own pauses in all.
        outcome: see `Outcome`.
        cause: name of the error's class, "" where there is none.
        tokens: answer tokens. The server's count where the answer is complete, else those that had arrived.
        prompt_tokens: the server's count, 0 where it gave none.
        cached_tokens: of those, what the server did not compute again.
        target: address that gave the answer, or the last one tried.
        attempts: targets tried.
    """

    scenario: str
    intended_s: float
    sent_s: float
    first_text_s: float | None
    gaps_s: tuple[float, ...]
    end_s: float
    paused_s: float
    outcome: Outcome
    cause: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    target: str = ""
    attempts: int = 1

    @property
    def ttft_s(self) -> float | None:
        """Time to first text, from the intended start."""
        return None if self.first_text_s is None else self.first_text_s - self.intended_s

    @property
    def e2e_s(self) -> float:
        """Whole time from the intended start, less the reader's own pauses."""
        return self.end_s - self.intended_s - self.paused_s

    @property
    def max_gap_s(self) -> float | None:
        """Longest silence inside the answer; None with fewer than two chunks."""
        return max(self.gaps_s) if self.gaps_s else None

    def plain(self) -> dict[str, Any]:
        """As JSON, times to a tenth of a millisecond."""
        values = asdict(self)
        for name in ("intended_s", "sent_s", "first_text_s", "end_s", "paused_s"):
            values[name] = None if values[name] is None else round(values[name], 4)
        return {**values, "gaps_s": [round(gap, 4) for gap in self.gaps_s]}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Trace:
        """The inverse of `plain`."""
        return cls(**{**values, "gaps_s": tuple(values["gaps_s"])})


@dataclass
class Progress:
    """A request under way: filled by who carries it, then closed into a `Trace`. Aborted until told otherwise."""

    scenario: str
    intended_s: float
    sent_s: float = field(default_factory=now)
    first_text_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    paused_s: float = 0.0
    outcome: Outcome = "aborted"
    cause: str = ""
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    target: str = ""
    attempts: int = 0
    _waiting_since: float | None = None

    def heard(self, text: str) -> None:
        """A chunk with text arrived."""
        at = now()
        if self.first_text_s is None:
            self.first_text_s = at
        elif self._waiting_since is not None:
            self.gaps_s.append(at - self._waiting_since)
        self._waiting_since = at
        self.text += text

    def paused(self, seconds: float) -> None:
        """The reader did not read for a while, by its own wish."""
        self.paused_s += seconds
        if self._waiting_since is not None:
            self._waiting_since += seconds

    def close(self) -> Trace:
        """What is known now, as a finished request."""
        return Trace(
            self.scenario,
            self.intended_s,
            self.sent_s,
            self.first_text_s,
            tuple(self.gaps_s),
            now(),
            self.paused_s,
            self.outcome,
            self.cause,
            self.tokens,
            self.prompt_tokens,
            self.cached_tokens,
            self.target,
            self.attempts,
        )
