"""SIGTERM under load drains; an idle client cannot hold the server; nothing is left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import grpc
import pytest
from qwen3vl_client import Client
from qwen3vl_client.errors import Draining, Interrupted, Unreachable
from tritonclient.grpc import service_pb2_grpc

from tests.server.triton import Server, serving

pytestmark = pytest.mark.server
STREAMS, TOKENS = 8, 600


def stream_slowly(url: str, started: threading.Barrier, out: list[tuple[int, str]]) -> None:
    with Client(url) as client, client.stream("Hello", max_tokens=TOKENS) as stream:
        tokens = 0
        for number, chunk in enumerate(stream):
            tokens += len(chunk.token_ids)
            if number == 0:
                started.wait(timeout=60)
        out.append((tokens, stream.reply.finish_reason))


def gone(server: Server, seconds: float) -> bool:
    """Whether the server ended within the time."""
    end = time.monotonic() + seconds
    while server.process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    return server.process.poll() is not None


def test_sigterm_under_eight_streams_finishes_them_and_refuses_new_ones(endless_engines: Path) -> None:
    with serving(endless_engines) as server:
        out: list[tuple[int, str]] = []
        started = threading.Barrier(STREAMS + 1)
        threads = [
            threading.Thread(target=stream_slowly, args=(server.grpc_url, started, out))
            for _ in range(STREAMS)
        ]
        for thread in threads:
            thread.start()
        with Client(server.grpc_url, retries=0) as late:
            assert late.ready()
            started.wait(timeout=60)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            # Unreachable only when the streams were so quick that the server is already gone.
            with pytest.raises((Draining, Unreachable)) as refused:
                late.chat("Hello", max_tokens=4)
            assert isinstance(refused.value, Draining) or server.process.poll() is not None
        for thread in threads:
            thread.join(timeout=90)
        last_stream = time.monotonic()
        assert len(out) == STREAMS
        assert all(reason in ("stop", "length") and tokens > 0 for tokens, reason in out)
        assert gone(server, 8), "the server outlived its last stream"
        print(f"gone {time.monotonic() - last_stream:.1f} s after the last stream")
        assert server.process.returncode == 0


def test_an_idle_open_stream_does_not_keep_the_server_alive(endless_engines: Path) -> None:
    with serving(endless_engines) as server, grpc.insecure_channel(server.grpc_url) as channel:
        release = threading.Event()

        def nothing():  # type: ignore[no-untyped-def]
            release.wait(120)
            yield from ()

        replies = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(nothing())
        with Client(server.grpc_url) as client:
            assert client.chat("Hello", max_tokens=2).text is not None
        server.process.send_signal(signal.SIGTERM)
        try:
            assert gone(server, 12), "an idle stream held the server"
        finally:
            release.set()
            replies.cancel()
        assert server.process.returncode == 0


def test_killing_the_server_mid_stream_interrupts_the_client_at_once(endless_engines: Path) -> None:
    from qwen3vl_client.errors import Interrupted

    with serving(endless_engines, expect_exit=None) as server, Client(server.grpc_url) as client:
        text = ""
        with (
            pytest.raises(Interrupted) as caught,
            client.stream("Hello", max_tokens=TOKENS) as stream,
        ):
            for number, chunk in enumerate(stream):
                text += chunk.text
                if number == 3:
                    os.kill(server.triton_pid, signal.SIGKILL)
                    killed = time.monotonic()
        assert time.monotonic() - killed < 3
        assert caught.value.partial_text == text != ""
        assert gone(server, 10)
        assert server.process.returncode != 0


def test_killing_the_language_model_process_fails_requests_clearly_and_recovers_or_exits(
    endless_engines: Path,
) -> None:
    """docs/decisions/0003: the server exits non-zero for the orchestrator to restart it."""
    from qwen3vl_client.errors import ClientError

    with serving(endless_engines, expect_exit=None) as server, Client(server.grpc_url, retries=0) as client:
        with (
            pytest.raises(ClientError) as caught,
            client.stream("Hello", max_tokens=TOKENS) as stream,
        ):
            for number, _ in enumerate(stream):
                if number == 3:
                    os.kill(server.stub_pid("tensorrt_llm"), signal.SIGKILL)
                    killed = time.monotonic()
        assert time.monotonic() - killed < 10
        assert str(caught.value)
        assert gone(server, 15)
        assert server.process.returncode not in (0, None)


def test_a_killed_supervisor_leaves_no_process_behind(endless_engines: Path) -> None:
    with serving(endless_engines, expect_exit=None) as server:
        pids = server.pids()
        assert len(pids) >= 5
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        end = time.monotonic() + 10
        while (left := [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]) and time.monotonic() < end:
            time.sleep(0.1)
        assert left == []


def test_a_server_that_stands_still_is_ended_and_its_callers_are_told(endless_engines: Path) -> None:
    with serving(endless_engines, expect_exit=1, arguments=("--silence", "3")) as server:
        time.sleep(4)  # nobody asks anything, and it lives
        with Client(server.grpc_url) as client, client.stream("Hello", max_tokens=TOKENS) as stream:
            next(stream)
            os.kill(server.triton_pid, signal.SIGSTOP)
            with pytest.raises(Interrupted):
                stream.read()
        assert gone(server, 20)
        assert "gave no answer for 3 s" in server.log()
