"""The HTTP way to a server, against a real socket that speaks OpenAI's protocol. The gateway itself comes later."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from loadtests.openai import OpenAIConnection
from loadtests.scenarios import CANCEL_AFTER_CHUNKS, Question
from loadtests.targets import Targets
from loadtests.trace import Trace

QUESTION = Question(
    "one-image",
    ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},),
    (b"jpeg",),
    (),
    16,
    0.0,
    cancel=False,
)
USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}


def piece(text: str | None, finish_reason: str | None = None) -> dict[str, Any]:
    delta = {"role": "assistant"} if text is None else {"content": text}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


ANSWER = [piece(None), piece("Hel"), piece("lo"), piece("", "stop"), {"choices": [], "usage": USAGE}]


@contextmanager
def serving(status: int, events: list[dict[str, Any]], done: bool = True) -> Iterator[tuple[str, list[Any]]]:
    """A server that answers every chat with `events`; its address and what it was sent."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(status)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            if status == 200:
                self.wfile.write(b": comment\n\n")
                for event in events:
                    self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                if done:
                    self.wfile.write(b"data: [DONE]\n\n")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()
        thread.join()


def ask(address: str, question: Question = QUESTION) -> tuple[str | None, Trace]:
    traces: list[Trace] = []
    text = Targets([address], traces.append).ask(question, 0.0)
    (trace,) = traces
    return text, trace


def test_an_answer() -> None:
    with serving(200, ANSWER) as (address, seen):
        text, trace = ask(address)
    assert text == "Hello"
    assert (trace.outcome, trace.tokens, trace.prompt_tokens, trace.cached_tokens) == ("complete", 5, 9, 4)
    assert trace.first_text_s is not None
    assert len(trace.gaps_s) == 1  # of two chunks with text; the role and the end have none
    ((path, body),) = seen
    assert path == "/v1/chat/completions"
    assert body["messages"][0]["content"][0] == {
        "type": "image_url",
        "image_url": {"url": "data:image/jpeg;base64,anBlZw=="},
    }
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["max_tokens"] == 16


@pytest.mark.parametrize(
    ("status", "outcome", "cause"),
    [(429, "rejected", "Overloaded"), (503, "rejected", "Unavailable"), (400, "failed", "HTTP 400"), (500, "failed", "HTTP 500")],
)  # fmt: skip
def test_refusals_by_status(status: int, outcome: str, cause: str) -> None:
    with serving(status, []) as (address, _):
        text, trace = ask(address)
    assert (text, trace.outcome, trace.cause) == (None, outcome, cause)


@pytest.mark.parametrize(
    ("events", "cause"),
    [
        (ANSWER[:2], "Interrupted"),  # the end is missing
        ([*ANSWER[:2], {"error": {"type": "server_error", "message": "x"}}], "server_error"),
    ],
)
def test_a_broken_answer_is_a_failure(events: list[dict[str, Any]], cause: str) -> None:
    with serving(200, events, done=False) as (address, _):
        text, trace = ask(address)
    assert (text, trace.outcome, trace.cause) == (None, "failed", cause)
    assert trace.first_text_s is not None


def test_a_cancelled_answer() -> None:
    leaves = Question(**{**vars(QUESTION), "cancel": True})
    with serving(200, [*[piece("x")] * 30, piece("", "stop")]) as (address, _):
        text, trace = ask(address, leaves)
    assert (text, trace.outcome, len(trace.gaps_s)) == (None, "cancelled", CANCEL_AFTER_CHUNKS - 1)


def test_nobody_there_and_the_next_target() -> None:
    with serving(429, []) as (full, _), serving(200, ANSWER) as (free, _):
        traces: list[Trace] = []
        targets = Targets([full, "http://127.0.0.1:9", free], traces.append)
        assert targets.ask(QUESTION, 0.0) == "Hello"
    assert (traces[0].attempts, traces[0].target) == (3, free)
    assert ask("http://127.0.0.1:9")[1].cause == "Unreachable"


def test_an_address_without_a_host_is_told() -> None:
    check: Callable[[], object] = lambda: OpenAIConnection("http://")  # noqa: E731
    with pytest.raises(ValueError, match="target: got"):
        check()
