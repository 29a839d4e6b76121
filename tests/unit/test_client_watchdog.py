"""The watchdog of the blocking client: who is cancelled when, and that its thread goes."""

from __future__ import annotations

import math
import threading
import time

from qwen3vl_client.watchdog import Watchdog


def dogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "qwen3vl-watchdog"]


def wait_until_gone() -> bool:
    until = time.monotonic() + 20
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
            assert short.wait(20)
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
    with dog.limit(watch, 0.5):
        pass
    assert not called.wait(0.8)
    dog.remove(watch)
    assert wait_until_gone()


def test_new_limit_replaces_the_lifted_one() -> None:
    dog = Watchdog()
    called = threading.Event()
    watch = dog.add(called.set)
    with dog.limit(watch, 0.5):
        pass
    with dog.limit(watch, 60):
        assert not called.wait(0.8)
    with dog.limit(watch, 0.1):
        assert called.wait(20)
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
            assert called.wait(20)
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
            assert over.wait(30)
        late.append(time.monotonic() - began - seconds)
        dog.remove(watch)

    threads = [threading.Thread(target=call, args=(0.05 + 0.01 * (i * 7 % 40),)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(late) == 40
    assert all(-0.01 <= seconds < 8 for seconds in late)
    assert wait_until_gone()
