"""Overload: half the knee, twice the knee, half the knee again, without a break. What is asserted, and from which traces.

The server is full on purpose, so it must refuse: at once, by name (Overloaded), and without hurting what it took in. And
when the crowd is gone it must be as it was.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loadtests.arrivals import Phase
from loadtests.metrics import Window, percentile
from loadtests.trace import Trace

RECOVERY_S: Final = 5
"""Within so many seconds of the overload's end the server has to be as before."""
LOOK_S: Final = 3
"""Recovered means: so many seconds in a row without a rejection, their median TTFT at most twice the p95 before."""

Checks = dict[str, tuple[bool, str]]


@dataclass(frozen=True)
class Overload:
    """Rates per second and lengths in seconds of the three phases."""

    knee: float
    calm_s: float = 10.0
    full_s: float = 15.0
    after_s: float = 15.0

    def phases(self) -> tuple[Phase, Phase, Phase]:
        """As arrivals take them."""
        return (
            Phase(self.knee / 2, self.calm_s),
            Phase(self.knee * 2, self.full_s),
            Phase(self.knee / 2, self.after_s),
        )

    def windows(self, start_s: float) -> tuple[Window, Window, Window]:
        """When they are, if arrivals begin at `start_s`. The first second of the calm is warm-up."""
        full = start_s + self.calm_s
        after = full + self.full_s
        return (
            Window(start_s + min(1.0, self.calm_s / 4), full),
            Window(full, after),
            Window(after, after + self.after_s),
        )


def judge(traces: Sequence[Trace], windows: tuple[Window, Window, Window]) -> Checks:
    """Every check by name: whether it passed, and what was seen."""
    before, full, after = ([t for t in traces if window.holds(t.intended_s)] for window in windows)
    refused = [trace for trace in full if trace.outcome == "rejected"]
    unclean = [
        t for t in traces if t.outcome == "failed" or (t.outcome == "rejected" and t.cause != "Overloaded")
    ]
    cut = [trace for trace in traces if trace.outcome == "aborted"]
    early = [trace for trace in before if trace.outcome == "rejected"]
    waits = sorted(trace.end_s - trace.intended_s for trace in refused)
    recovered = recovery_s(before, after, windows[2])
    return {
        "takes everything before": (not early, f"{len(early)} of {len(before)} rejected at half the knee"),
        "refuses what is too much": (
            bool(refused),
            f"{len(refused)} of {len(full)} rejected at twice the knee"
            + (f", told after {1000 * percentile(waits, 50):.0f} ms (p50), {1000 * waits[-1]:.0f} ms (max)" if waits else
               "; the server was never full: lower max_inflight, or overload it for longer"),
        ),
        "refuses by name": (not unclean, f"{len(unclean)} other errors {sorted({t.cause for t in unclean})}"),
        "nothing hangs": (not cut, f"{len(cut)} requests without an end"),
        f"recovers within {RECOVERY_S} s": (
            recovered is not None and recovered <= RECOVERY_S,
            "not at all" if recovered is None else f"after {recovered} s",
        ),
    }  # fmt: skip


def recovery_s(before: Sequence[Trace], after: Sequence[Trace], window: Window) -> int | None:
    """Whole seconds from the end of the overload until LOOK_S good seconds begin; None if none do."""
    usual = sorted(trace.ttft_s for trace in before if trace.ttft_s is not None)
    if not usual:
        return None
    limit = 2 * percentile(usual, 95)
    for second in range(int(window.seconds) - LOOK_S + 1):
        look = Window(window.start_s + second, window.start_s + second + LOOK_S)
        seen = [trace for trace in after if look.holds(trace.intended_s)]
        times = [trace.ttft_s for trace in seen if trace.ttft_s is not None]
        if seen and len(times) == len(seen) and statistics.median(times) <= limit:
            return second
    return None
