"""Latency counts from the intended start: a server that stalls shows in every request that should have been sent meanwhile.

Were the time counted from sending by users who wait for answers, one stall would be one slow request (coordinated
omission). Bounds are lower bounds of waiting that the script itself makes, so no speed of a machine can break them.
"""

from __future__ import annotations

import threading
from itertools import islice, pairwise
from pathlib import Path

import pytest

from loadtests.arrivals import Phase, poisson
from loadtests.trace import Trace
from tests.fake_triton import ANSWER, Call, FakeTriton, Request, Script
from tests.loadtests.command import play

STALL_S = 1.5


class Stall:
    """Answers at once, but from the 10th request on everybody waits STALL_S, once."""

    def __init__(self) -> None:
        self.count, self.lock, self.over = 0, threading.Lock(), threading.Event()

    def script(self, _: Request) -> Script:
        with self.lock:
            self.count += 1
            number = self.count
        if number == 10:
            return [Call(lambda: (threading.Event().wait(STALL_S), self.over.set())), *ANSWER]
        return [Call(self.over.wait), *ANSWER] if number > 10 else ANSWER


def played(out: Path, ladder: str) -> tuple[Trace, ...]:
    """The requests of a stage against a server that stalls once."""
    with FakeTriton(Stall().script) as triton:
        code, run, _ = play(
            out,
            "run",
            "--target",
            triton.url,
            "--scenario",
            "text-only",
            "--ladder",
            ladder,
            "--duration",
            "3s",
        )
    assert code == 0
    traces = run.stages[0].traces
    assert {trace.outcome for trace in traces} == {"complete"}
    return traces


def slow(traces: tuple[Trace, ...], share: float = 1 / 3) -> int:
    """How many requests took longer than a share of the stall."""
    return sum((trace.ttft_s or 0.0) > STALL_S * share for trace in traces)


def test_a_stall_shows_in_every_request_of_an_open_loop(tmp_path: Path) -> None:
    # 20 arrivals/s: of the 30 or so that fall into the stall, those of its first two thirds wait longer than a third.
    traces = played(tmp_path, "rate=20")
    assert slow(traces) >= 10
    # Every request counts from the arrival that was drawn, not from the moment the generator came to it.
    intended = sorted(trace.intended_s for trace in traces)
    drawn = list(islice(poisson([Phase(20.0)], "1 source 10000"), len(intended)))
    gaps = [b - a for a, b in pairwise(intended)]
    assert gaps == pytest.approx([b - a for a, b in pairwise(drawn)], abs=0.0002)


def test_and_hides_behind_one_user_who_waits(tmp_path: Path) -> None:
    # Of two thirds: a shared machine itself stood still for half a second once in a run of all tests.
    assert slow(played(tmp_path, "users=1"), 2 / 3) == 1


def test_arrivals_are_seeded_and_poisson() -> None:
    first = [at for at, _ in zip(poisson([Phase(50.0)], 3), range(5000), strict=False)]
    again = [at for at, _ in zip(poisson([Phase(50.0)], 3), range(5000), strict=False)]
    other = [at for at, _ in zip(poisson([Phase(50.0)], 4), range(5000), strict=False)]
    assert first == again != other
    gaps = [b - a for a, b in pairwise(first)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 50, rel=0.1)
    # Of a Poisson process the gaps' variance is the square of their mean; even spacing would have none.
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.2)


def test_phases_follow_each_other() -> None:
    times = list(poisson([Phase(10.0, 10.0), Phase(100.0, 10.0), Phase(10.0, 10.0)], 1))
    counts = [sum(start <= at < start + 10 for at in times) for start in (0, 10, 20)]
    assert times == sorted(times)
    assert times[-1] < 30
    assert 60 < counts[0] < 140
    assert 850 < counts[1] < 1150
    assert 60 < counts[2] < 140
    with pytest.raises(ValueError, match="above 0"):
        Phase(0.0)
