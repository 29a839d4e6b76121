"""Users and replicas by arithmetic that can be done on paper."""

from __future__ import annotations

import pytest

from loadtests.capacity import Capacity, explain, judge
from loadtests.run_file import RunFile
from loadtests.slo import parse
from loadtests.trace import Trace
from tests.loadtests.traces import SLO, ladder, trace


def stage(count: int, ttft: float, rejected: int = 0) -> tuple[Trace, ...]:
    """`count` answers of `ttft` + 0.04 s within the window of 10 s, and rejections."""
    answers = [trace(0.01 * number, ttft=ttft) for number in range(count)]
    return (*answers, *(trace(0.0, None, (), "rejected", "Overloaded") for _ in range(rejected)))


def run() -> RunFile:
    return ladder((1, stage(20, 0.4)), (2, stage(40, 0.46)), (4, stage(60, 2.6)), (8, stage(60, 0.5)))


def test_it_holds_the_last_load_up_to_which_all_stages_hold() -> None:
    found = judge(run(), SLO)
    assert [one.holds for one in found.verdicts] == [True, True, False, True]
    assert (found.load, found.limited) == (2, True)
    assert found.requests_per_s == pytest.approx(4.0)
    assert found.e2e_mean_s == pytest.approx(0.5)
    assert "ttft_p95 2.60 s > 2.00 s" in found.verdicts[2].misses[0]


def test_a_looser_level_holds_more_and_a_tighter_one_nothing() -> None:
    assert judge(run(), parse("ttft_p95=3s")).load == 8
    assert not judge(run(), parse("ttft_p95=3s")).limited
    nothing = judge(run(), parse("ttft_p95=100ms"))
    assert (nothing.load, nothing.users(10.0), nothing.replicas(10, 10.0)) == (None, 0, None)


def test_users_by_littles_law() -> None:
    held = Capacity((), 2, requests_per_s=4.0, e2e_mean_s=0.5, limited=True)
    assert held.users(0.0) == 2  # 4/s * 0.5 s
    assert held.users(9.5) == 40  # 4/s * (0.5 s + 9.5 s)


def test_replicas_round_up_with_headroom() -> None:
    held = Capacity((), 2, requests_per_s=4.0, e2e_mean_s=0.5, limited=True)
    assert held.replicas(40, 9.5, headroom=0.0) == 1
    assert held.replicas(41, 9.5, headroom=0.0) == 2
    assert held.replicas(40, 9.5, headroom=0.2) == 2  # 40 / 32
    assert held.replicas(96, 9.5, headroom=0.2) == 3  # 96 / 32, exactly


def test_rejections_and_silence_do_not_hold() -> None:
    assert judge(ladder((1, stage(99, 0.1, rejected=1))), SLO).load == 1
    assert judge(ladder((1, stage(98, 0.1, rejected=2))), SLO).load is None
    assert judge(ladder((1, ())), SLO).load is None
    assert judge(ladder((1, (trace(1.0), trace(1.0, outcome="aborted")))), SLO).load is None


def test_the_answer_says_how_it_was_computed() -> None:
    text = explain(run(), SLO, think_s=9.5, users=100)
    assert "users=2" in text
    assert "40 who think Z = 9.5 s" in text
    assert "4 for 100 users: 100 / (40.0 * (1 - 0.2 headroom)), rounded up" in text
    assert "or more" in explain(run(), parse("ttft_p95=3s"), 0.0, None)


def test_only_a_ladder_has_a_capacity() -> None:
    soak = RunFile("soak", "users", ("a:1",), "mixed", 1, 0.0, SLO, "", ())
    with pytest.raises(ValueError, match="got a run of the plan 'soak'"):
        judge(soak, SLO)
