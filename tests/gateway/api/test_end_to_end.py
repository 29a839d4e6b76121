"""The whole way over a real Triton with the demo engines: openai-python with a picture, and the tutorial's client."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from openai import OpenAI
from PIL import Image

from gateway.assistant import notices
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


def test_a_person_and_the_model_do_not_speak_at_once(url: str) -> None:
    """From the hand-off to its end: the agent gets what the customer writes and shows, and the model keeps silent."""

    def ask(text: str, *pictures: bytes) -> dict[str, Any]:
        shown = [
            {
                "type": "image_url",
                "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(each).decode()}"},
            }
            for each in pictures
        ]
        body = {
            "messages": [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}],
            "user": "desk",
        }
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def case(name: str = "") -> dict[str, Any]:
        (found,) = [
            each
            for each in httpx.get(f"{url}/v1/handoffs").json()["data"]
            if each["conversation_id"] == "desk" and (not name or each["handoff_id"] == name)
        ]
        return dict(found)

    first = ask("转人工")
    name = first["customer_service"]["handoff"]["handoff_id"]
    assert (
        "黑屏" in ask("手机黑屏了怎么办？", PHONE.read_bytes())["choices"][0]["message"]["content"]
    )  # nobody took it yet
    httpx.post(f"{url}/v1/handoffs/{name}/claim", json={"agent": "李"}).raise_for_status()

    passed = ask("这是照片", PHONE.read_bytes())
    assert passed["choices"][0]["message"]["content"] == notices.PASSED_ON["zh"]
    assert passed["usage"]["completion_tokens"] == 0
    assert passed["customer_service"]["handoff"]["handoff_id"] == name
    seen = case(name)
    assert (seen["state"], seen["agent"], len(seen["media"])) == ("claimed", "李", 1)
    assert httpx.get(f"{url}/v1/media/{seen['media'][0]['object_id']}").status_code == 200
    told = httpx.get(f"{url}/v1/conversations/desk").json()["messages"]
    assert "这是照片" in str(told)

    httpx.post(f"{url}/v1/handoffs/{name}/close", json={"agent": "李"}).raise_for_status()
    assert ask("手机黑屏了怎么办？", PHONE.read_bytes())["usage"]["completion_tokens"] > 5


def test_a_screen_recording(url: str) -> None:
    """A recording as OpenAI's clients send one: each of its frames is seen, and the fault in it is named."""
    clip = io.BytesIO()
    frame = av.VideoFrame.from_image(Image.open(PHONE).convert("RGB").resize((320, 320)))
    with av.open(clip, "w", format="mp4") as written:
        stream = written.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 320, 320, "yuv420p"
        for _ in range(8):
            written.mux(stream.encode(frame))
        written.mux(stream.encode())
    uri = f"data:video/mp4;base64,{base64.b64encode(clip.getvalue()).decode()}"
    content = [{"type": "video_url", "video_url": {"url": uri}}, {"type": "text", "text": "手机怎么了？"}]
    reply = httpx.post(
        f"{url}/v1/chat/completions", json={"messages": [{"role": "user", "content": content}]}, timeout=60
    )
    assert reply.status_code == 200, reply.text
    assert "黑屏" in reply.json()["choices"][0]["message"]["content"]
