"""Runs `python -m loadtests` as a user does: in a process of its own, since gevent changes the whole process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from loadtests import run_file
from loadtests.run_file import RunFile

ROOT = Path(__file__).parents[2]


def play(out: Path, *arguments: str) -> tuple[int, RunFile, str]:
    """Exit code, run file and standard output of a command that sends requests."""
    command = [sys.executable, "-m", "loadtests", *arguments, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (out / "run.json").exists(), done.stdout + done.stderr
    return done.returncode, run_file.read(out / "run.json"), done.stdout


def python(code: str, *arguments: str, ends: bool = True) -> str:
    """Standard output of a piece of Python, which must end well unless `ends` is False."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert not ends or done.returncode == 0, done.stdout + done.stderr
    return done.stdout
