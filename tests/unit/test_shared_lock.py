"""The lock between machines: never two holders, whoever is killed, asleep or slow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from build_engine.volume import lock
from build_engine.volume.lock import LostError, Owner, SharedLock

ROOT = Path(__file__).parents[2]
STALE_S = 1.0
HOLD = """
import sys, time
from pathlib import Path
from build_engine.volume import lock
lock.BEAT_S = 0.2
held = lock.SharedLock(Path(sys.argv[1]))
assert held.acquire(0, print)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.2)
    monkeypatch.setattr(lock, "STALE_S", STALE_S)
    monkeypatch.setattr(lock, "POLL_S", 0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".key.lock"


def nobody(owner: Owner) -> None:
    pytest.fail(f"waited for {owner}")


def hold(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until it is killed."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def end(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert holder.stdout is not None
    holder.stdout.close()


def test_the_next_one_waits_for_the_holder_and_is_told_who_it_is(path: Path) -> None:
    first, second = SharedLock(path), SharedLock(path)
    assert first.acquire(0, nobody)
    assert first.holder() == second.holder()
    seen: list[Owner] = []
    assert not second.acquire(0.2, seen.append)
    assert {owner.pid for owner in seen} == {os.getpid()}
    first.release()
    assert second.holder() is None
    assert second.acquire(0, nobody)
    second.check()
    with pytest.raises(LostError):
        first.check()
    second.release()
    assert len(list(path.parent.iterdir())) == 1, "old files of the lock are left over"


def test_a_living_holder_keeps_the_lock_however_long_its_interpreter_is_busy(path: Path) -> None:
    holder = hold(path)
    try:
        holder.send_signal(signal.SIGSTOP)  # as a library that computes and lets no Python run
        assert not SharedLock(path).acquire(2 * STALE_S, lambda owner: None)
    finally:
        end(holder)


@pytest.mark.parametrize("clock", [-3600, 3600])
def test_a_killed_holder_s_lock_is_taken_over_whatever_its_clock_said_and_not_before(
    path: Path, clock: int
) -> None:
    holder = hold(path)
    end(holder)
    file, now = next(path.parent.glob(".key.lock-*")), time.time() + clock
    os.utime(file, (now, now))
    seen: list[Owner] = []
    heir, started = SharedLock(path), time.monotonic()
    assert heir.acquire(30, seen.append)
    assert STALE_S <= time.monotonic() - started < 10
    assert seen[0].pid == holder.pid
    heir.check()
    heir.release()


def test_many_who_find_the_holder_dead_at_once_never_hold_it_together(path: Path) -> None:
    end(hold(path))
    inside, worst, done = [0], [0], [0]
    start = threading.Barrier(8)

    def take() -> None:
        mine = SharedLock(path)
        start.wait()
        for _ in range(3):
            assert mine.acquire(60, lambda owner: None)
            inside[0] += 1
            worst[0] = max(worst[0], inside[0])
            time.sleep(0.01)
            inside[0] -= 1
            done[0] += 1
            mine.release()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (worst[0], done[0]) == (1, 24)


def test_one_who_slept_between_looking_and_taking_takes_nothing_from_those_who_came_after(path: Path) -> None:
    end(hold(path))
    sleeper = SharedLock(path)
    assert sleeper.holder() is not None
    time.sleep(STALE_S + 0.1)
    assert sleeper.holder() is None, "it found the holder dead"
    number, _ = sleeper._next()
    for _ in range(2):  # meanwhile others took it, released it, and one has it
        awake = SharedLock(path)
        assert awake.acquire(10, lambda owner: None)
        awake.release()
    holder = SharedLock(path)
    assert holder.acquire(0, nobody)
    assert not sleeper._create(number)
    holder.check()
    assert not sleeper.acquire(0, lambda owner: None)
    holder.release()


def test_a_holder_that_was_asleep_learns_that_it_lost_the_lock_and_harms_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = SharedLock(path)
    assert sleeper.acquire(0, nobody)
    assert sleeper._beat is not None
    os.kill(sleeper._beat.pid, signal.SIGSTOP)  # the whole machine was suspended
    heir = SharedLock(path)
    assert heir.acquire(30, lambda owner: None)
    os.kill(sleeper._beat.pid, signal.SIGCONT)
    with pytest.raises(LostError, match="was taken over by"):
        sleeper.check()
    sleeper.release()
    heir.check()
    assert not SharedLock(path).acquire(0.1, lambda owner: None)
    heir.release()
    assert len(list(path.parent.iterdir())) == 1, "the sleeper left its file"


@pytest.mark.parametrize("content", ["", "[]"])
def test_a_holder_that_died_before_it_said_who_it_is(path: Path, content: str) -> None:
    path.with_name(f"{path.name}-000001").write_text(content)
    seen: list[Owner] = []
    heir = SharedLock(path)
    assert heir.acquire(30, seen.append)
    assert str(seen[0]).startswith("someone")
    heir.release()


def test_keys_that_look_like_the_files_of_another_lock(tmp_path: Path) -> None:
    one, other = SharedLock(tmp_path / ".a.lock"), SharedLock(tmp_path / ".a.lock-7.lock")
    assert other.acquire(0, nobody)
    assert one.acquire(0, nobody)
    one.release()
    other.check()
    other.release()


def test_a_volume_that_is_full_or_read_only_gives_an_error_and_no_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, owner: Owner) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lock, "_write", full)
        with pytest.raises(OSError, match="No space"):
            SharedLock(path).acquire(0, nobody)
    assert list(path.parent.iterdir()) == []
    assert SharedLock(path.parent / "gone" / "x").holder() is None
    again = SharedLock(path)
    assert again.acquire(0, nobody)
    again.release()
