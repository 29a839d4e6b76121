"""One trace from the caller's request to the model, seen by a collector to which a real gateway and a real server export."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.collector import collecting
from tests.gateway.api.test_serve import served
from tests.server.triton import serving

pytestmark = pytest.mark.server
TRACE, CALLER = "ab" * 16, "cd" * 8


def test_a_trace_goes_on_from_the_gateway_to_the_model(demo_engines: Path, tmp_path: Path) -> None:
    with collecting() as collector:
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

        # Both have ended, and sent what they had before.
        gateway = [span for span in collector.of("cs-gateway") if span.trace == TRACE]
        (model,) = [span for span in collector.of("qwen3-vl") if span.trace == TRACE]
        assert CALLER in {span.parent for span in gateway}
        assert model.name == "chat qwen3_vl"
        assert model.parent in {span.span for span in gateway}
        # The gateway begins a trace of its own for a caller without one; its question is below it.
        (other,) = [span for span in collector.of("qwen3-vl") if span.trace != TRACE]
        assert other.trace in {span.trace for span in collector.of("cs-gateway")}
        assert not [body for body in collector.bodies if b"geheim" in body], "spans carry no content"
