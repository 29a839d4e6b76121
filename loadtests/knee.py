"""Where a deployment stops gaining from more load. Knows curves, not requests.

Closed loop (users): the knee is the lowest load that reaches at least FULL of the highest answers/s of the ladder. Below it
more users bring more answers; beyond it they bring hardly any, only latency, since each user waits for all the others.

Open loop (rates): the knee is the highest rate that the server still keeps up with, at that rate and at every lower one:
complete answers/s are at least KEEPS_UP of the arrivals/s, and p95 E2E is at most SLOWER times the one at the lowest rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

FULL: Final = 0.9
KEEPS_UP: Final = 0.9
"""Less than this share of the arrivals answered means a queue that grows; the rest is the noise of a short window."""
SLOWER: Final = 5.0

Kind = Literal["users", "rate"]


@dataclass(frozen=True)
class Point:
    """One stage: load (users, or requests/s), arrivals/s and complete answers/s in the window, E2E in seconds."""

    load: float
    arrivals_per_s: float
    requests_per_s: float
    e2e_mean_s: float | None
    e2e_p95_s: float | None


@dataclass(frozen=True)
class Knee:
    """Index of the stage at the knee, and whether the ladder went beyond it (else the knee may lie higher)."""

    index: int
    load: float
    passed: bool


def find(points: Sequence[Point], kind: Kind) -> Knee | None:
    """The knee of a ladder in ascending order of load; None if even its first stage is beyond it, or it is empty."""
    index = _first_that_is_full(points) if kind == "users" else _last_that_keeps_up(points)
    return None if index is None else Knee(index, points[index].load, index < len(points) - 1)


def _first_that_is_full(points: Sequence[Point]) -> int | None:
    most = max((point.requests_per_s for point in points), default=0.0)
    full = (index for index, point in enumerate(points) if point.requests_per_s >= FULL * most > 0)
    return next(full, None)


def _last_that_keeps_up(points: Sequence[Point]) -> int | None:
    last = None
    for index, point in enumerate(points):
        base = points[0].e2e_p95_s
        if point.e2e_p95_s is None or base is None or point.e2e_p95_s > SLOWER * base:
            break
        if point.requests_per_s < KEEPS_UP * point.arrivals_per_s:
            break
        last = index
    return last
