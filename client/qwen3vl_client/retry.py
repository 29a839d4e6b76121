"""When a failed attempt is made again, and after how long. Knows errors and numbers, no clock, no network."""

from __future__ import annotations

import random
from dataclasses import dataclass

from qwen3vl_client.errors import ClientError, TimedOut, Unavailable


@dataclass(frozen=True)
class Retry:
    """At most `retries` further attempts, with pauses that double and are spread at random.

    Without the spread, clients that were refused together come back together.
    """

    retries: int = 2
    first_pause_s: float = 0.25
    longest_pause_s: float = 4.0

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ValueError(f"retries: got {self.retries}; allowed: 0 or more")

    def pause_s(self, error: ClientError, attempts: int) -> float | None:
        """Seconds to wait before the next attempt after `attempts` failed ones; None: give up."""
        if attempts > self.retries or not is_retryable(error):
            return None
        longest = min(self.longest_pause_s, self.first_pause_s * 2 ** (attempts - 1))
        return random.uniform(longest / 2, longest)


def is_retryable(error: ClientError) -> bool:
    """Whether the same request may succeed later: the server was full, draining or away."""
    return isinstance(error, Unavailable) or (isinstance(error, TimedOut) and error.which == "connect")
