"""A service level: limits on latency, written `ttft_p95=2s,itl_p95=200ms`. Knows names and numbers only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

METRICS: Final = ("ttft", "itl", "max_gap", "e2e")
DEFAULT: Final = "ttft_p95=2s,itl_p95=200ms"
_TERM: Final = re.compile(
    r"(?P<metric>[a-z0-9_]+)_p(?P<percentile>\d+(?:\.\d+)?)=(?P<value>\d+(?:\.\d+)?)(?P<unit>ms|s)"
)


@dataclass(frozen=True)
class Limit:
    """`percentile` (0 to 100) of a metric of METRICS is at most `seconds`."""

    metric: str
    percentile: float
    seconds: float

    @property
    def name(self) -> str:
        """As it is written, without the value."""
        return f"{self.metric}_p{self.percentile:g}"


@dataclass(frozen=True)
class Slo:
    """All limits of a service level; `good_share` of the requests must be complete as well."""

    limits: tuple[Limit, ...]
    good_share: float = 0.99

    def __str__(self) -> str:
        return ",".join(f"{limit.name}={_seconds(limit.seconds)}" for limit in self.limits)


def parse(text: str) -> Slo:
    """ValueError for a term that is none."""
    limits = []
    for term in text.split(","):
        found = _TERM.fullmatch(term.strip())
        if not found or found["metric"] not in METRICS or not 0 < float(found["percentile"]) <= 100:
            raise ValueError(
                f"slo: got {term!r}; allowed: METRIC_pNN=VALUE, METRIC of {', '.join(METRICS)}, NN up to 100, "
                "VALUE in s or ms; for example ttft_p95=2s,itl_p95=200ms"
            )
        seconds = float(found["value"]) / (1000 if found["unit"] == "ms" else 1)
        limits.append(Limit(found["metric"], float(found["percentile"]), seconds))
    return Slo(tuple(limits))


def _seconds(value: float) -> str:
    return f"{value:g}s" if value >= 1 else f"{1000 * value:g}ms"
