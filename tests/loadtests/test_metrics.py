"""Figures of hand-written traces: each definition has a case that another definition would get wrong."""

from __future__ import annotations

import pytest

from loadtests import trace as traces_module
from loadtests.metrics import Spread, Window, is_good, percentile, summarise, values_of
from loadtests.slo import parse
from loadtests.trace import Progress, Trace
from tests.loadtests.traces import SLO, trace

WINDOW = Window(10.0, 20.0)


def test_percentiles_are_nearest_rank() -> None:
    values = [float(value) for value in range(1, 21)]
    assert [percentile(values, p) for p in (5, 50, 95, 99, 100)] == [1, 10, 19, 20, 20]
    assert percentile([7.0], 50) == 7
    assert Spread.of([]) == Spread(0, None, None, None, None, None, None)
    spread = Spread.of([3.0, 1.0, 2.0])
    assert (spread.count, spread.mean, spread.p50, spread.max) == (3, 2.0, 2.0, 3.0)


def test_latency_is_of_requests_that_should_start_in_the_window() -> None:
    before, inside, after = trace(9.9, ttft=5.0), trace(10.0, ttft=0.5), trace(20.0, ttft=7.0)
    ends_late = trace(19.9, ttft=3.0)
    figures = summarise([before, inside, after, ends_late], WINDOW, SLO)
    assert figures.ttft.count == 2
    assert figures.ttft.max == pytest.approx(3.0)
    assert figures.arrivals_per_s == pytest.approx(0.2)


def test_throughput_is_of_answers_that_end_in_the_window() -> None:
    begun_before, ends_after = trace(9.9, ttft=1.0, tokens=100), trace(19.9, ttft=1.0, tokens=7)
    figures = summarise([begun_before, ends_after], WINDOW, SLO)
    assert figures.requests_per_s == pytest.approx(0.1)
    assert figures.tokens_per_s == pytest.approx(10.0)


def test_ttft_counts_from_the_intended_start_not_from_sending() -> None:
    late = trace(11.0, ttft=1.5, late=1.4)
    figures = summarise([late], WINDOW, SLO)
    assert figures.ttft.p50 == pytest.approx(1.5)
    assert figures.send_lag_p99_s == pytest.approx(1.4)


def test_itl_pools_the_gaps_and_keeps_the_longest() -> None:
    smooth = trace(11.0, gaps=(0.01,) * 99)
    stalled = trace(12.0, gaps=(0.01, 2.0))
    figures = summarise([smooth, stalled], WINDOW, SLO)
    assert figures.itl.count == 101
    assert figures.itl.p95 == pytest.approx(0.01)
    assert figures.max_gap.count == 2
    assert figures.max_gap.max == pytest.approx(2.0)


def test_cancelled_and_aborted_requests_are_counted_apart() -> None:
    figures = summarise(
        [
            trace(11.0, tokens=10),
            trace(11.0, outcome="cancelled", tokens=4),
            trace(11.0, outcome="aborted", ttft=9.0),
            trace(11.0, outcome="rejected", cause="Overloaded", ttft=None, gaps=()),
            trace(11.0, outcome="failed", cause="Interrupted"),
            trace(12.0, outcome="failed", cause="Interrupted"),
        ],
        WINDOW,
        SLO,
    )
    assert (figures.complete, figures.cancelled, figures.aborted) == (1, 1, 1)
    assert figures.rejected == {"Overloaded": 1}
    assert figures.failed == {"Interrupted": 2}
    assert figures.ttft.count == 2
    assert figures.e2e.count == 1
    assert figures.tokens_per_s == pytest.approx(1.0)
    assert figures.good_share == pytest.approx(1 / 4)


def test_goodput_asks_each_request_for_every_limit() -> None:
    slow_start = trace(11.0, ttft=2.5)
    one_stall = trace(12.0, gaps=(0.01,) * 30 + (3.0,))  # 1 of 31 gaps: p95 is still fine
    stalls = trace(13.0, gaps=(0.01, 0.3))
    good = trace(14.0)
    cancelled = trace(15.0, outcome="cancelled")
    assert [is_good(one, SLO) for one in (slow_start, one_stall, stalls, good, cancelled)] == [
        False,
        True,
        False,
        True,
        False,
    ]
    figures = summarise([slow_start, one_stall, stalls, good, cancelled], WINDOW, SLO)
    assert figures.goodput_per_s == pytest.approx(0.2)
    assert not is_good(one_stall, parse("max_gap_p95=1s"))
    assert not is_good(one_stall, parse("e2e_p50=1s"))


@pytest.mark.parametrize("metric", ["ttft", "itl", "max_gap", "e2e"])
def test_values_follow_the_same_rules_as_the_summary(metric: str) -> None:
    some = [trace(11.0 + n / 10, ttft=0.1 * n, gaps=(0.01 * n, 0.05)) for n in range(1, 9)]
    some += [
        trace(12.0, outcome="cancelled"),
        trace(12.0, outcome="aborted", ttft=8.0),
        trace(30.0, ttft=9.0),
    ]
    values = values_of(some, WINDOW, metric)
    spread = getattr(summarise(some, WINDOW, SLO), metric)
    assert (len(values), values[-1], percentile(values, 95)) == (spread.count, spread.max, spread.p95)


def test_a_readers_own_pauses_are_not_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.7, 2.9, 3.0])  # sent, three chunks, end
    monkeypatch.setattr(traces_module, "now", lambda: next(clock))
    progress = Progress("slow-reader", 0.0, sent_s=traces_module.now())
    progress.heard("a")
    progress.paused(0.5)
    progress.heard("b")
    progress.paused(0.5)
    progress.heard("c")
    progress.outcome = "complete"
    closed = progress.close()
    assert closed.gaps_s == pytest.approx((0.2, 0.7))
    assert closed.e2e_s == pytest.approx(2.0)
    assert closed.ttft_s == pytest.approx(1.0)


def test_a_trace_survives_json() -> None:
    for one in (trace(1.5), trace(2.0, ttft=None, gaps=(), outcome="rejected", cause="Overloaded")):
        assert Trace.read(one.plain()) == one


@pytest.mark.parametrize(
    "text", ["ttft=2s", "ttft_p95=2", "nonsense_p95=2s", "ttft_p0=2s", "ttft_p101=2s", ""]
)
def test_a_wrong_slo_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"slo: got .*allowed: METRIC_pNN"):
        parse(text)


def test_an_slo_reads_back() -> None:
    assert str(parse("ttft_p95=2s,itl_p99.9=0.2s")) == "ttft_p95=2s,itl_p99.9=200ms"
