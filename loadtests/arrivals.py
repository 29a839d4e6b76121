"""When requests of an open loop arrive: a seeded Poisson process, drawn without a look at the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from random import Random


@dataclass(frozen=True)
class Phase:
    """`rate` arrivals per second in the mean, for `seconds`."""

    rate: float
    seconds: float = inf

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.seconds > 0):
            raise ValueError(f"phase: got {self}; allowed: rate and seconds above 0")


def poisson(phases: Sequence[Phase], seed: int | str) -> Iterator[float]:
    """Seconds from the start at which requests arrive, to the end of the last phase.

    Two processes of rates a and b together are one of rate a + b, so sources can be spread over machines.
    """
    random = Random(f"{seed} arrivals")
    ends = list(accumulate(phase.seconds for phase in phases))
    at = 0.0
    for phase, end in zip(phases, ends, strict=True):
        # The process has no memory: at a change of rate the waiting simply begins anew.
        while (following := at + random.expovariate(phase.rate)) < end:
            at = following
            yield at
        at = end
