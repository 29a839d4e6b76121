"""`python -m gateway dev`: one command starts all, a killed worker comes back, Ctrl-C leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.triton import alive


def wait(condition: Callable[[], Any], what: str, wait_s: float) -> Any:
    end = time.monotonic() + wait_s
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.1)
    return found


@pytest.mark.server
def test_one_command_starts_all_and_ends_all(demo_engines: Path, tmp_path: Path) -> None:
    ready, output = tmp_path / "ready.json", tmp_path / "output"
    command = [sys.executable, "-m", "gateway", "dev", "--engines", str(demo_engines), "--free-ports"]
    command += ["--state", str(tmp_path / "run"), "--ready-file", str(ready)]
    with output.open("wb") as file:
        stack = subprocess.Popen(command, stdout=file, stderr=file)
    pids: dict[str, int] = {}
    try:
        wait(lambda: ready.exists() or stack.poll() is not None, "not ready", 120)
        assert ready.exists(), output.read_text()
        facts = json.loads(ready.read_text())
        pids = facts["pids"]
        with httpx.Client(base_url=facts["urls"]["page"], trust_env=False, timeout=30) as http:
            assert http.get("/").status_code == 200
            assert http.get("/readyz").json()["missing"] == []
            first = ask(http, "手机黑屏怎么办？")
            assert first["answer"]["text"]
            os.kill(pids["worker"], signal.SIGKILL)
            second = ask(http, "My laptop does not turn on. What can I do?")
            assert second["answer"]["text"]
        assert "worker ended with code -9; starting it again" in output.read_text()
    finally:
        stack.send_signal(signal.SIGINT)
        code = stack.wait(60)
    assert code == 0, output.read_text()
    assert [name for name, pid in pids.items() if alive(pid)] == []
    log = (tmp_path / "run" / "logs" / "worker.log").read_text()
    assert "黑屏" not in log
    assert "laptop" not in log


def ask(http: httpx.Client, text: str) -> dict[str, Any]:
    """A ticket's end."""
    body = {"model": "qwen3_vl", "messages": [{"role": "user", "content": text}]}
    made = http.post("/v1/tickets", json=body)
    assert made.status_code == 202, made.text

    def ended() -> Any:
        ticket = http.get(f"/v1/tickets/{made.json()['ticket_id']}").json()
        return ticket if ticket["state"] in ("answered", "handed_off") else None

    ticket: dict[str, Any] = wait(ended, "no answer", 60)
    return ticket
