"""A model's process ends with its Triton, even when it hangs in native code that holds Python's lock."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ensemble.process import TritonProcess
from tests.server.triton import alive

# What stands for tritonserver starts what stands for stubs; these tie themselves to it and then hold Python's lock for a minute.
STUB = """
import ctypes, os, sys
from pathlib import Path
from ensemble.process import end_with_parent
end_with_parent()
Path(sys.argv[1]).write_text(str(os.getpid()))
ctypes.PyDLL(None).sleep(60)
"""
SERVER = """
import subprocess, sys, time
stubs = [subprocess.Popen([sys.executable, "-c", sys.argv[1], f"{sys.argv[2]}/{n}"], close_fds=False) for n in range(2)]
time.sleep(120)
"""


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[tuple[int, list[int]]]:
    command = [sys.executable, "-c", SERVER, STUB, str(tmp_path)]
    process = TritonProcess(command, dict(os.environ), Path.cwd(), tmp_path / "log")
    files = [tmp_path / "0", tmp_path / "1"]
    try:
        end = time.monotonic() + 20
        while not all(file.exists() and file.read_text() for file in files):
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.05)
        yield process.pid, [int(file.read_text()) for file in files]
    finally:
        process.close()
        for file in files:
            if file.exists() and alive(pid := int(file.read_text())):
                os.kill(pid, signal.SIGKILL)


def test_stubs_that_hang_end_with_a_killed_server(pids: tuple[int, list[int]]) -> None:
    server, stubs = pids
    time.sleep(0.3)
    assert all(alive(pid) for pid in stubs), "they must live as long as the server does"
    os.kill(stubs[0], signal.SIGKILL)
    time.sleep(0.2)
    assert alive(stubs[1]), "the end of another stub is no reason"
    os.kill(server, signal.SIGKILL)
    end = time.monotonic() + 5
    while alive(stubs[1]) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(stubs[1])
