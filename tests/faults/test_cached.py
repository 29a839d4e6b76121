"""Builds into a shared cache that are killed, run side by side, or find the disk full."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from build_engine import staging
from build_engine.__main__ import main
from build_engine.build import build
from build_engine.checkpoint import Checkpoint
from build_engine.manifest import FILE_NAME, Manifest
from build_engine.openvino_build import OpenVino
from build_engine.volume import FAILED, FINE, lock
from build_engine.volume.lock import LostError, SharedLock

ROOT = Path(__file__).parents[2]
KEY = "demo"


@pytest.fixture
def command(demo_checkpoint: Path, tmp_path: Path) -> list[str]:
    return [
        "cached",
        str(demo_checkpoint),
        "--target",
        "openvino",
        "--weights",
        "f32",
        "--cache",
        str(tmp_path),
        "--key",
        KEY,
    ]


def start(command: list[str], *before: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, sys.executable, "-m", "build_engine", *command],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def left_over(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != KEY and ".lock-" not in path.name)


def test_of_many_callers_one_builds(command: list[str], tmp_path: Path) -> None:
    callers = [start(command) for _ in range(3)]
    printed = [caller.communicate(timeout=120)[0] for caller in callers]
    assert [caller.returncode for caller in callers] == [FINE] * 3, printed
    assert sorted("is built" in text for text in printed) == [False, False, True], printed
    Manifest.read(tmp_path / KEY, check_files=True)
    assert left_over(tmp_path) == []


def test_a_killed_builder_s_lock_and_rest_go_to_the_next(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = start(command)
    _until(lambda: any(any(path.iterdir()) for path in tmp_path.glob(f".{KEY}.building-*")))
    killed.kill()
    killed.communicate()
    assert left_over(tmp_path), "the kill came too late to show anything"
    monkeypatch.setattr(lock, "STALE_S", 0.5)
    monkeypatch.setattr(lock, "POLL_S", 0.1)
    assert main(command) == FINE
    assert f"(process {killed.pid}, since" in capsys.readouterr().out
    Manifest.read(tmp_path / KEY, check_files=True)
    assert left_over(tmp_path) == []


def test_a_terminated_builder_leaves_the_lock_to_the_next_at_once(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = start(command)
    _until(lambda: any(any(path.iterdir()) for path in tmp_path.glob(f".{KEY}.building-*")))
    ended.terminate()
    ended.communicate()
    assert ended.returncode == 128 + signal.SIGTERM
    assert left_over(tmp_path) == []
    assert SharedLock(tmp_path / f".{KEY}.lock").holder() is None


def test_a_disk_too_small_is_told_before_the_build(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    assert main(command) == FAILED
    assert "too little disk" in capsys.readouterr().err
    assert left_over(tmp_path) == []
    assert SharedLock(tmp_path / f".{KEY}.lock").holder() is None


@pytest.mark.parametrize("megabytes", [2, 10], ids=["in our own files", "in OpenVINO's"])
def test_a_disk_that_fills_up_during_the_build_leaves_nothing(
    megabytes: int, command: list[str], tmp_path: Path
) -> None:
    limited = start(command, "prlimit", f"--fsize={megabytes << 20}")
    printed = limited.communicate(timeout=120)[0]
    assert limited.returncode == FAILED, printed
    assert not (tmp_path / KEY).exists()
    assert left_over(tmp_path) == []
    assert SharedLock(tmp_path / f".{KEY}.lock").holder() is None
    assert main(command) == FINE


def test_a_builder_that_lost_its_lock_publishes_nothing(demo_checkpoint: Path, tmp_path: Path) -> None:
    def lost() -> None:
        raise LostError("taken over")

    with pytest.raises(LostError):
        build(
            Checkpoint.read(demo_checkpoint), tmp_path / KEY, OpenVino("f32"), {}, False, before_publish=lost
        )
    assert not (tmp_path / KEY / FILE_NAME).exists()
    assert left_over(tmp_path) == []


def test_a_file_system_without_flock_still_gets_engines(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(staging.fcntl, "flock", none)
    assert main(command) == FINE
    Manifest.read(tmp_path / KEY, check_files=True)


def _until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.001)
