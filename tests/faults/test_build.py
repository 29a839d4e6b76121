"""Builds that are killed, terminated, or run side by side: the output is whole or absent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from build_engine.__main__ import main
from build_engine.manifest import FILE_NAME, Manifest

ROOT = Path(__file__).parents[2]


def test_existing_engines_need_force_and_foreign_output_is_never_touched(
    demo_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "engines"
    command = [str(demo_checkpoint), "--target", "openvino", "--weights", "f32", "--output"]
    assert main([*command, str(output)]) == 0
    old = Manifest.read(output)
    assert main([*command, str(output)]) == 2
    assert "already holds engines; use --force" in capsys.readouterr().err
    assert Manifest.read(output, check_files=True) == old
    assert main([*command, str(output), "--force", "--max-batch-size", "3"]) == 0
    assert Manifest.read(output, check_files=True).limits.max_batch_size == 3 != old.limits.max_batch_size

    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").write_bytes(b"meow")
    assert main([*command, str(foreign), "--force"]) == 2
    assert "it is left alone" in capsys.readouterr().err
    assert main([*command, str(foreign / "cat.jpg"), "--force"]) == 2
    assert "is no directory" in capsys.readouterr().err
    assert [path.name for path in foreign.iterdir()] == ["cat.jpg"]


def test_a_killed_build_leaves_no_half_engine_and_the_next_one_cleans_up(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "engines"
    killed = _stopped_build(demo_checkpoint, output)
    killed.kill()
    killed.wait()
    assert not output.exists()
    assert _staging(output), "the kill came too early to show anything"
    assert (
        main([str(demo_checkpoint), "--target", "openvino", "--output", str(output), "--weights", "f32"]) == 0
    )
    Manifest.read(output, check_files=True)
    assert not _staging(output)


def test_a_terminated_build_removes_its_staging_directory(demo_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "engines"
    build = _stopped_build(demo_checkpoint, output)
    build.terminate()
    os.kill(build.pid, signal.SIGCONT)
    assert build.wait(timeout=30) == 128 + signal.SIGTERM
    assert not output.exists()
    assert not _staging(output)


def test_a_running_build_is_not_taken_for_a_killed_one(demo_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "engines"
    running = _stopped_build(demo_checkpoint, output)
    staging = _staging(output)
    try:
        assert (
            main([str(demo_checkpoint), "--target", "openvino", "--output", str(output), "--weights", "f32"])
            == 0
        )
        assert _staging(output) == staging
    finally:
        running.kill()
        running.wait()


def _stopped_build(checkpoint: Path, output: Path) -> subprocess.Popen[bytes]:
    """A build that is stopped (SIGSTOP) as soon as it has written something."""
    command = [
        sys.executable,
        "-m",
        "build_engine",
        str(checkpoint),
        "--target",
        "openvino",
        "--output",
        str(output),
    ]
    build = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(any(path.iterdir()) for path in _staging(output)):
        assert build.poll() is None, "the build ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(build.pid, signal.SIGSTOP)
    assert not (output / FILE_NAME).exists()
    return build


def _staging(output: Path) -> list[Path]:
    return sorted(output.parent.glob(f".{output.name}.building-*"))
