"""How long to wait, for what. Knows seconds only, not who waits or on which clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Timeout:
    """Limits in seconds; None is no limit. Each limit has its own name in `TimedOut.which`.

    One number for everything would be wrong for a stream: a long answer is not a hang, a silent one is.

    Attributes:
        connect: until the server answers at all, per attempt.
        first_token: from sending to the first piece of the answer (queue, vision, prefill), per attempt.
        idle: silence between two pieces, while the caller waits for the next one.
        total: from the first attempt to the end, retries and the caller's own pauses included.
    """

    connect: float | None = 5.0
    first_token: float | None = 60.0
    idle: float | None = 30.0
    total: float | None = None

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"Timeout.{name}: got {value!r}; allowed: seconds above 0, or None")

    @classmethod
    def of(cls, value: Timeout | float) -> Timeout:
        """A Timeout as it is; a number of seconds as the total, beside the default limits."""
        return value if isinstance(value, Timeout) else cls(total=float(value))
