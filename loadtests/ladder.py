"""Steps of load: `users=1,2,4,8` (closed loop) or `rate=2,4,8` (open loop), and how long each lasts. Values only."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from loadtests.knee import Kind


@dataclass(frozen=True)
class Ladder:
    """Loads in ascending order: numbers of users, or arrivals per second."""

    kind: Kind
    loads: tuple[float, ...]


@dataclass(frozen=True)
class Timing:
    """Seconds of each stage.

    Attributes:
        window: what is counted.
        warm_up: before it, under the same load.
        cool_down: after it, under the same load, so that requests of the window end as they began.
        grace: then, without new requests, for what is still running; whatever is not done then is aborted.
    """

    window: float
    warm_up: float
    cool_down: float
    grace: float = 60.0

    @classmethod
    def of(cls, window: float, warm_up: float | None = None, cool_down: float | None = None) -> Timing:
        """Where not said: warm-up 20 % of the window, at least 1 s; cool-down half of that."""
        warm_up = max(1.0, 0.2 * window) if warm_up is None else warm_up
        return cls(window, warm_up, warm_up / 2 if cool_down is None else cool_down)


def parse(text: str) -> Ladder:
    """A ladder as the command line has it. ValueError for one that is none."""
    kind, _, values = text.partition("=")
    try:
        loads = tuple(float(value) for value in values.split(","))
    except ValueError:
        loads = ()
    whole = kind == "rate" or all(load.is_integer() for load in loads)
    ascending = all(a < b for a, b in pairwise(loads))
    sane = all(load > 0 and math.isfinite(load) for load in loads)
    if kind not in ("users", "rate") or not loads or not (whole and ascending and sane):
        raise ValueError(
            f"ladder: got {text!r}; allowed: users=N,N,... (whole) or rate=R,R,... (requests/s), above 0, ascending"
        )
    return Ladder("users" if kind == "users" else "rate", loads)


def seconds(text: str) -> float:
    """`20`, `20s`, `500ms` or `5m` in seconds. ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|)", text)
    if not found or not float(found[1]):
        raise ValueError(f"duration: got {text!r}; allowed: a number above 0 with ms, s (default) or m")
    return float(found[1]) * {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0}[found[2]]
