"""`serve --trace-url`: spans of requests that bring a `traceparent`, as a collector gets them."""

from __future__ import annotations

import json
import socket
import urllib.request
from pathlib import Path

import pytest
from qwen3vl_client import Client, InvalidImage

from tests.collector import collecting
from tests.server.triton import serving

CALLER = "cd" * 8
FEW = 40


def header(number: int, sampled: bool = True) -> dict[str, str]:
    return {"traceparent": f"00-{number:032x}-{CALLER}-{int(sampled):02x}", "tracestate": "vendor=abc"}


def test_every_traced_request_has_one_span_below_its_caller(demo_engines: Path) -> None:
    with collecting() as collector:
        with serving(demo_engines, arguments=("--trace-url", collector.url)) as server:
            # Each over a connection of its own: there Triton's own tracer loses one of twenty.
            for number in range(1, FEW + 1):
                with Client(server.grpc_url) as client:
                    reply = client.chat("geheim", max_tokens=2, metadata=header(number))
            with Client(server.grpc_url) as client:
                client.chat("Hello", max_tokens=2)
                client.chat("Hello", max_tokens=2, metadata=header(1000, sampled=False))
                client.chat("Hello", max_tokens=2, metadata={"traceparent": "no trace"})
                with pytest.raises(InvalidImage):
                    client.chat("geheim", images=b"no picture", metadata=header(1001))
                with client.stream("Hello", max_tokens=500, metadata=header(1002)) as left:
                    next(left)
            # Triton hands no headers on from its HTTP port; there they are parameters.
            said = json.dumps([{"role": "user", "content": "Hello"}])
            request = urllib.request.Request(
                f"{server.http_url}/v2/models/qwen3_vl/generate_stream",
                json.dumps({"messages": said, "max_tokens": 2, **header(1003)}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()

        # The server has ended, and sent what it had before. A goodbye is no request of its own.
        spans = {int(span.trace, 16): span for span in collector.of("qwen3-vl")}
        assert sorted(spans) == [*range(1, FEW + 1), 1001, 1002, 1003]
        assert len(collector.spans) == len(spans)
        assert {span.parent for span in spans.values()} == {CALLER}
        assert {span.name for span in spans.values()} == {"chat qwen3_vl"}
        assert spans[FEW].attributes["gen_ai.usage.input_tokens"] == reply.usage.prompt_tokens
        assert spans[FEW].attributes["gen_ai.usage.output_tokens"] == reply.usage.completion_tokens
        assert spans[1001].attributes["error.type"] == "InvalidImage"
        assert spans[1002].attributes["error.type"] == "Cancelled"
        assert not [body for body in collector.bodies if b"geheim" in body], "spans carry no content"


def test_a_collector_that_is_away_costs_nobody_an_answer(demo_engines: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with (
            serving(demo_engines, arguments=("--trace-url", url)) as server,
            Client(server.grpc_url) as client,
        ):
            for number in range(1, 4):
                assert client.chat("Hello", max_tokens=2, metadata=header(number)).finish_reason
