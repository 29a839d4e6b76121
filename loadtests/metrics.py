"""Traces of one stage -> figures, by one definition each. It knows no clock, no server and no plot.

Tools disagree about what TTFT or ITL is, so `DEFINITIONS` goes with the figures wherever they are printed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from loadtests.slo import Slo
from loadtests.trace import Trace

DEFINITIONS: Final[Mapping[str, str]] = {
    "window": "the stage less its warm-up and cool-down, in which the load goes on but nothing is counted",
    "latency": "of requests whose intended start lies in the window, followed to their end even beyond it; complete and "
    "cancelled ones (E2E: complete ones only)",
    "intended start": "open loop: the drawn Poisson arrival, however late the generator or the server was; closed loop: the "
    "moment the user was free to send",
    "TTFT": "arrival of the first chunk that has text, minus the intended start",
    "ITL": "time from one chunk with text to the next, less the reader's own pauses; the gaps of all requests are pooled",
    "max gap": "the longest such gap of a request",
    "E2E": "arrival of the end of the answer, minus the intended start, less the reader's own pauses",
    "percentile": "nearest rank: the smallest value that at least p % of the values do not exceed",
    "requests/s": "complete answers whose end lies in the window / length of the window",
    "output tokens/s": "the same answers' tokens by the server's count / length of the window",
    "goodput": "answers per second that meet the service level: intended start in the window, complete, TTFT within its limit, "
    "the request's own NNth percentile gap within that of itl_pNN / length of the window",
    "rejected": "refused before the first text (Overloaded, Draining, Unreachable ...); its intended start lies in the window",
    "failed": "any other error, time-outs included; its intended start lies in the window",
    "aborted": "still running when the stage's grace was over; in no other figure",
    "generator CPU": "processor time of the load generator's process in the window / length of the window; 1.00 is one core, and "
    "near 1.00 the generator, not the server, is what was measured",
    "send lag": "time sent minus intended start, p99: lateness of the generator itself",
}


@dataclass(frozen=True)
class Window:
    """Times between which a stage is counted, on the clock of `trace.now`."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end_s - self.start_s

    def holds(self, at_s: float) -> bool:
        """Whether a moment lies in it."""
        return self.start_s <= at_s < self.end_s


@dataclass(frozen=True)
class Spread:
    """Distribution of a latency in seconds; `count` values. All None where there is no value."""

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    max: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of values in any order."""
        ordered = sorted(values)
        if not ordered:
            return cls(0, None, None, None, None, None, None)
        p50, p90, p95, p99 = (percentile(ordered, p) for p in (50, 90, 95, 99))
        return cls(len(ordered), math.fsum(ordered) / len(ordered), p50, p90, p95, p99, ordered[-1])


@dataclass(frozen=True)
class Summary:
    """The figures of one stage, see DEFINITIONS. Latencies in seconds, rates per second."""

    window_s: float
    arrivals_per_s: float
    requests_per_s: float
    tokens_per_s: float
    goodput_per_s: float
    ttft: Spread
    itl: Spread
    max_gap: Spread
    e2e: Spread
    complete: int
    cancelled: int
    aborted: int
    rejected: Mapping[str, int]
    failed: Mapping[str, int]
    send_lag_p99_s: float
    generator_cpu: float | None

    @property
    def good_share(self) -> float:
        """Share of the requests that were complete, out of all that were not cancelled or aborted; 1 if none."""
        bad = sum(self.rejected.values()) + sum(self.failed.values())
        return self.complete / (self.complete + bad) if self.complete + bad else 1.0

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "good_share": self.good_share}


def percentile(ordered: Sequence[float], p: float) -> float:
    """Nearest rank: the smallest value that at least p % of the values do not exceed. `ordered` ascends."""
    return ordered[max(1, math.ceil(p / 100 * len(ordered))) - 1]


def summarise(
    traces: Iterable[Trace], window: Window, slo: Slo, generator_cpu: float | None = None
) -> Summary:
    """The figures of a stage. `traces` may hold requests outside the window."""
    traces = list(traces)
    begun = [trace for trace in traces if window.holds(trace.intended_s)]
    ended = [trace for trace in traces if trace.outcome == "complete" and window.holds(trace.end_s)]
    seen = [trace for trace in begun if trace.outcome in ("complete", "cancelled")]
    complete = [trace for trace in begun if trace.outcome == "complete"]
    count = Counter(trace.outcome for trace in begun)
    lags = sorted(trace.sent_s - trace.intended_s for trace in begun)
    return Summary(
        window_s=window.seconds,
        arrivals_per_s=len(begun) / window.seconds,
        requests_per_s=len(ended) / window.seconds,
        tokens_per_s=sum(trace.tokens for trace in ended) / window.seconds,
        goodput_per_s=sum(is_good(trace, slo) for trace in complete) / window.seconds,
        ttft=Spread.of(trace.ttft_s for trace in seen if trace.ttft_s is not None),
        itl=Spread.of(gap for trace in seen for gap in trace.gaps_s),
        max_gap=Spread.of(trace.max_gap_s for trace in seen if trace.max_gap_s is not None),
        e2e=Spread.of(trace.e2e_s for trace in complete),
        complete=count["complete"],
        cancelled=count["cancelled"],
        aborted=count["aborted"],
        rejected=_causes(begun, "rejected"),
        failed=_causes(begun, "failed"),
        send_lag_p99_s=percentile(lags, 99) if lags else 0.0,
        generator_cpu=generator_cpu,
    )


def values_of(traces: Iterable[Trace], window: Window, metric: str) -> list[float]:
    """The values, ascending, behind a metric of `slo.METRICS`, by the same rules as `summarise`."""
    begun = [trace for trace in traces if window.holds(trace.intended_s)]
    seen = [trace for trace in begun if trace.outcome in ("complete", "cancelled")]
    if metric == "ttft":
        return sorted(trace.ttft_s for trace in seen if trace.ttft_s is not None)
    if metric == "itl":
        return sorted(gap for trace in seen for gap in trace.gaps_s)
    if metric == "max_gap":
        return sorted(trace.max_gap_s for trace in seen if trace.max_gap_s is not None)
    return sorted(trace.e2e_s for trace in begun if trace.outcome == "complete")


def is_good(trace: Trace, slo: Slo) -> bool:
    """Whether one answer meets every limit, read for a single request (DEFINITIONS: goodput)."""
    for limit in slo.limits:
        if limit.metric == "itl":
            value = percentile(sorted(trace.gaps_s), limit.percentile) if trace.gaps_s else None
        else:
            value = {"ttft": trace.ttft_s, "max_gap": trace.max_gap_s, "e2e": trace.e2e_s}[limit.metric]
        if value is not None and value > limit.seconds:
            return False
    return trace.outcome == "complete"


def _causes(traces: Iterable[Trace], outcome: str) -> dict[str, int]:
    return dict(sorted(Counter(trace.cause for trace in traces if trace.outcome == outcome).items()))
