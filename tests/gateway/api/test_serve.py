"""`python -m gateway serve`, as a process: no model server, then SIGTERM in the middle of a stream."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.gateway.api.conftest import wait_for

BODY = {"messages": [{"role": "user", "content": "手机黑屏"}]}


@contextmanager
def served(
    directory: Path, *program: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    ready = directory / "ready.json"
    settings = {
        "GATEWAY_DATABASE__URL": f"sqlite:///{directory}/gateway.db",
        "GATEWAY_OBJECTS__URL": str(directory / "objects"),
        "GATEWAY_KNOWLEDGE__DATABASE": str(directory / "knowledge.db"),
        "GATEWAY_TRITON__URL": "127.0.0.1:1",
        "GATEWAY_TRITON__TIMEOUT_S": "3",
    }
    arguments = ["--port", "0", "--ready-file", str(ready), "--unready-s", "0.5"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            env=os.environ | settings | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: ready.exists() or process.poll() is not None, "not ready", seconds=60)
        assert process.poll() is None, (directory / "log").read_text()
        yield process, json.loads(ready.read_text())["url"]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_without_a_model_server(tmp_path: Path) -> None:
    with served(tmp_path, "-m", "gateway", "serve") as (process, url):
        ready = httpx.get(f"{url}/readyz")
        assert (ready.status_code, ready.json()["missing"]) == (503, ["triton"])
        reply = httpx.post(f"{url}/v1/chat/completions", json=BODY, timeout=30)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "unavailable")
        assert int(reply.headers["Retry-After"]) >= 1
        assert httpx.post(f"{url}/v1/tickets", json=BODY).status_code == 503
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines
    assert all(json.loads(line)["service"] == "gateway" for line in lines)
    assert "黑屏" not in "\n".join(lines)


def test_a_drain(tmp_path: Path) -> None:
    with served(tmp_path, "-m", "tests.gateway.api.slow_server") as (process, url):
        said, begun = [], time.monotonic()
        with httpx.stream(
            "POST", f"{url}/v1/chat/completions", json=BODY | {"stream": True}, timeout=30
        ) as stream:
            lines = stream.iter_lines()
            while len(said) < 3:
                said += [line for line in [next(lines)] if line]
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            ready = httpx.get(f"{url}/readyz")
            assert (ready.status_code, "draining" in ready.json()["missing"]) == (503, True)
            said += [line for line in lines if line]
        assert said[-1] == "data: [DONE]"
        assert sum('"content":"x' in line for line in said) == 20
        assert process.wait(10) == 0
        assert time.monotonic() - begun > 2
