"""One trace from the caller's request to Triton, seen by a collector to which a real gateway and a real Triton export."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.gateway.api.test_serve import served
from tests.server.triton import serving

pytestmark = pytest.mark.server
TRACE, CALLER = "ab" * 16, "cd" * 8


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace: str
    span: str
    parent: str


@dataclass
class Collector:
    """OTLP over HTTP, as protobuf (the gateway's SDK) and as JSON (Triton's)."""

    url: str
    spans: list[Span] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def take(self, kind: str, body: bytes) -> None:
        self.bodies.append(body)
        if "json" in kind:
            sent, name = json.loads(body), str
        else:
            sent, name = MessageToDict(ExportTraceServiceRequest.FromString(body)), _hexadecimal
        for resource in sent["resourceSpans"]:
            attributes = {each["key"]: each["value"] for each in resource["resource"]["attributes"]}
            for scope in resource["scopeSpans"]:
                for each in scope["spans"]:
                    self.spans.append(
                        Span(
                            attributes["service.name"]["stringValue"],
                            each["name"],
                            name(each["traceId"]),
                            name(each["spanId"]),
                            name(each.get("parentSpanId", "")),
                        )
                    )

    def of(self, service: str) -> list[Span]:
        return [span for span in self.spans if span.service == service]


def _hexadecimal(text: str) -> str:
    """Bytes in the JSON form of a protobuf message are base64."""
    return base64.b64decode(text).hex()


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            seen.take(self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    seen = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield seen
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_trace_goes_on_from_the_gateway_to_triton(
    collector: Collector, demo_engines: Path, tmp_path: Path
) -> None:
    with serving(demo_engines, arguments=("--trace-url", collector.url)) as triton:
        environment = {
            "GATEWAY_PROFILE": "demo",
            "GATEWAY_MEDIA__MASK": "false",
            "GATEWAY_TRITON__URL": triton.grpc_url,
            "GATEWAY_KNOWLEDGE__DATABASE": str(tmp_path / "knowledge.db"),
            "GATEWAY_TELEMETRY__OTLP_ENDPOINT": collector.url,
        }
        with served(tmp_path, "-m", "gateway", "serve", **environment) as (process, url):
            body = {"messages": [{"role": "user", "content": "geheim: my phone is black"}]}
            untraced = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
            headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
            traced = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
            assert (untraced.status_code, traced.status_code) == (200, 200)
            process.terminate()
            assert process.wait(20) == 0
        until = time.monotonic() + 20
        while not [span for span in collector.of("qwen3-vl") if span.trace == TRACE]:
            assert time.monotonic() < until, collector.spans
            time.sleep(0.1)

    gateway = [span for span in collector.of("cs-gateway") if span.trace == TRACE]
    model = [span for span in collector.of("qwen3-vl") if span.trace == TRACE]
    assert CALLER in {span.parent for span in gateway}
    assert {"InferRequest", "qwen3_vl"} <= {span.name for span in model}
    (entered,) = [span for span in model if span.name == "InferRequest"]
    assert entered.parent in {span.span for span in gateway}
    # The gateway begins a trace of its own for a caller without one; both of its questions are below it.
    assert {span.trace for span in collector.of("qwen3-vl")} <= {
        span.trace for span in collector.of("cs-gateway")
    }
    assert not [body for body in collector.bodies if b"geheim" in body], "spans carry no content"
