"""The whole way over a real Triton with the demo engines: openai-python with a picture, and the tutorial's client."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.gateway.api.test_predict import call_qwen_vl_api
from tests.gateway.api.test_serve import served
from tests.server.triton import serving

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[3]
PHONE = ROOT / "build_engine/demo/pictures/black_phone.jpg"


@pytest.fixture(scope="module")
def url(demo_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("end-to-end")
    environment = {
        "GATEWAY_PROFILE": "demo",
        "GATEWAY_MEDIA__MASK": "false",
        "GATEWAY_KNOWLEDGE__DATABASE": str(directory / "knowledge.db"),
    }
    with serving(demo_engines) as triton:
        environment["GATEWAY_TRITON__URL"] = triton.grpc_url
        environment["GATEWAY_TRITON__TIMEOUT_S"] = "60"
        with served(directory, "-m", "gateway", "serve", **environment) as (process, listening):
            subprocess.run(
                [sys.executable, "-m", "gateway", "kb", "add", str(ROOT / "gateway/knowledge/sample")],
                env={"PATH": "", "PYTHONPATH": ":".join(sys.path)} | environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            yield listening
            process.terminate()
            assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("text", "language"), [("手机黑屏了怎么办？", "zh"), ("My phone screen is black, what can I do?", "en")]
)
def test_a_streamed_answer_about_a_black_screen(url: str, text: str, language: str) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(PHONE.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": text}]
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        chunks = list(
            client.chat.completions.create(
                model="qwen3_vl",
                messages=[{"role": "user", "content": content}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    said = chunks[-2].model_extra["customer_service"]
    assert len(pieces) > 4
    assert chunks[-1].usage.completion_tokens > 5
    assert [citation["article_id"] for citation in said["citations"]] == [f"black-screen-{language}"], (
        "".join(pieces)
    )
    assert said["language"] == language
    kept = httpx.get(f"{url}/v1/conversations/{said['conversation_id']}").json()["messages"]
    assert kept[1]["content"][0]["text"] == "".join(pieces)
    rated = httpx.post(f"{url}/v1/feedback", json={"request_id": said["request_id"], "rating": 5})
    assert rated.status_code == 201


def test_the_tutorials_client(url: str) -> None:
    answer = call_qwen_vl_api(url, PHONE.read_bytes(), "这个手机怎么了？", key="none")
    assert "黑屏" in answer
    assert "[1]" in answer
