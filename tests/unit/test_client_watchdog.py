"""The watchdog of the blocking client: who is cancelled when, and that its thread goes."""

from __future__ import annotations

import math
import threading
import time

from qwen3vl_client.watchdog import Watchdog


def dogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "qwen3vl-watchdog"]


def wait_until_gone() -> bool:
    until = time.monotonic() + 5
    while dogs() and time.monotonic() < until:
        time.sleep(0.01)
    return not dogs()


def test_short_limit_is_kept_while_the_thread_sleeps_for_a_long_one() -> None:
    dog = Watchdog()
    long, short = threading.Event(), threading.Event()
    first, second = dog.add(long.set), dog.add(short.set)
    with dog.limit(first, 60):
        time.sleep(0.1)
        with dog.limit(second, 0.1):
            assert short.wait(5)
        assert second.expired
        assert not first.expired
        assert not long.is_set()
    dog.remove(first)
    dog.remove(second)
    assert wait_until_gone()


def test_limit_that_was_lifted_does_nothing() -> None:
    dog = Watchdog()
    called = threading.Event()
    watch = dog.add(called.set)
    with dog.limit(watch, 0.1):
        pass
    assert not called.wait(0.3)
    dog.remove(watch)
    assert wait_until_gone()


def test_limit_after_limit_counts_from_its_own_beginning() -> None:
    dog = Watchdog()
    called = threading.Event()
    watch = dog.add(called.set)
    for _ in range(4):
        with dog.limit(watch, 0.5):
            assert not called.wait(0.2)
    with dog.limit(watch, 0.1):
        assert called.wait(5)
    dog.remove(watch)
    assert wait_until_gone()


def test_without_a_limit_no_thread_is_started() -> None:
    dog = Watchdog()
    watch = dog.add(lambda: None)
    with dog.limit(watch, math.inf):
        assert not dogs()
    dog.remove(watch)


def test_thread_is_started_again_for_a_later_call() -> None:
    dog = Watchdog()
    for _ in range(50):
        called = threading.Event()
        watch = dog.add(called.set)
        with dog.limit(watch, 0.001):
            assert called.wait(5)
        dog.remove(watch)
    assert wait_until_gone()


def test_many_calls_at_once_are_each_cancelled_at_their_own_time() -> None:
    dog = Watchdog()
    late: list[float] = []

    def call(seconds: float) -> None:
        over = threading.Event()
        watch = dog.add(over.set)
        began = time.monotonic()
        with dog.limit(watch, seconds):
            assert over.wait(10)
        late.append(time.monotonic() - began - seconds)
        dog.remove(watch)

    threads = [threading.Thread(target=call, args=(0.05 + 0.01 * (i * 7 % 40),)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(late) == 40
    assert all(-0.01 <= seconds < 3 for seconds in late)
    assert wait_until_gone()
