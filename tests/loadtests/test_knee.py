"""The knee of curves whose knee is known by arithmetic."""

from __future__ import annotations

import pytest

from loadtests.knee import Knee, Point, find


def closed(users: float, slots: float, service_s: float) -> Point:
    """A server that answers `slots` requests at once in `service_s` each; more wait."""
    rate = min(users, slots) / service_s
    return Point(users, rate, rate, users / rate, users / rate)


def opened(rate: float, most: float, base_s: float = 0.1) -> Point:
    """A queue with one server (M/M/1): it answers `most` per second at best, and then falls behind."""
    if rate >= most:
        return Point(rate, rate, most, 10.0, 20.0)
    mean = base_s / (1 - rate / most)
    return Point(rate, rate, rate, mean, 3 * mean)


@pytest.mark.parametrize("slots", [2, 4, 8])
def test_users_the_knee_is_where_the_slots_are_full(slots: int) -> None:
    points = [closed(users, slots, 0.25) for users in (1, 2, 4, 8, 16, 32)]
    assert find(points, "users") == Knee((1, 2, 4, 8).index(slots), slots, passed=True)


def test_users_a_ladder_that_ends_too_early_says_so() -> None:
    assert find([closed(users, 64, 0.25) for users in (1, 2, 4)], "users") == Knee(2, 4, passed=False)


def test_users_throughput_that_still_creeps_up_is_not_the_knee() -> None:
    points = [closed(users, 4, 0.25) for users in (1, 2, 4)]
    points += [Point(8, 17.0, 17.0, 8 / 17, 1.0), Point(16, 17.5, 17.5, 16 / 17.5, 2.0)]
    knee = find(points, "users")
    assert knee == Knee(2, 4, passed=True)


def test_users_a_server_that_gets_slower_when_it_is_too_full() -> None:
    rates = (10.0, 20.0, 24.0, 25.0, 18.0)
    points = [Point(2**n, rate, rate, 2**n / rate, 1.0) for n, rate in enumerate(rates)]
    assert find(points, "users") == Knee(2, 4, passed=True)


def test_rate_the_knee_is_the_last_rate_that_keeps_up() -> None:
    assert find([opened(rate, 10) for rate in (1, 2, 4, 8, 16)], "rate") == Knee(3, 8, passed=True)
    assert find([opened(rate, 100) for rate in (1, 2, 4)], "rate") == Knee(2, 4, passed=False)


def test_rate_answers_that_fall_behind_end_it_even_if_quick() -> None:
    points = [Point(1, 1.0, 1.0, 0.1, 0.1), Point(2, 2.0, 1.7, 0.1, 0.1), Point(4, 4.0, 4.0, 0.1, 0.1)]
    assert find(points, "rate") == Knee(0, 1, passed=True)


def test_rate_latency_that_grows_ends_it_even_if_all_is_answered() -> None:
    points = [Point(1, 1.0, 1.0, 0.1, 0.1), Point(2, 2.0, 2.0, 0.4, 0.49), Point(4, 4.0, 4.0, 0.5, 0.51)]
    assert find(points, "rate") == Knee(1, 2, passed=True)


def test_no_knee() -> None:
    assert find([], "users") is None
    assert find([Point(1, 1.0, 0.0, None, None)], "users") is None
    assert find([Point(1, 1.0, 0.2, 1.0, 1.0)], "rate") is None
