"""The tutorial's sample client, with only the host changed."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request

import pytest

from tests.gateway.api.conftest import Running


def call_qwen_vl_api(host: str, image: bytes, prompt: str, key: str = "acme-key") -> str:
    """As the tutorial has it: base64, png hard-wired, 0.9, 0.95, 1024; data[0] of the reply."""
    body = {
        "data": [
            {"image": f"data:image/png;base64,{base64.b64encode(image).decode()}"},
            prompt,
            0.9,
            0.95,
            1024,
        ]
    }
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{host}/api/predict", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: str = json.loads(response.read())["data"][0]
        return answer


def test_the_sample_client(gateway: Running, picture: bytes) -> None:
    assert call_qwen_vl_api(gateway.url, picture, "手机黑屏了怎么办？") == "请长按电源键 10 秒[1]。"
    asked = gateway.assistant.asked[0]
    assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.max_tokens) == (0.9, 0.95, 1024)
    assert [item.kind for item in asked.media] == ["image"]


def test_the_tutorials_defaults(gateway: Running) -> None:
    reply = gateway.http().post("/api/predict", json={"data": [None, "你好"]})
    assert reply.json()["data"] == ["请长按电源键 10 秒[1]。"]
    asked = gateway.assistant.asked[0]
    assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.max_tokens) == (0.9, 0.95, 1024)
    assert asked.media == ()


@pytest.mark.parametrize(
    "data",
    [
        [],
        ["x"],
        [{"image": 5}, "x"],
        [{"image": "data:image/png;base64,AAAA"}, "x"],
        [None, 5],
        [None, "x", "hot"],
        [None, "x", 0.9, 0.95, -1],
        [None, "x", 0.9, 0.95, 5, 6],
        [{"image": "https://img.example.com/a.png"}, "x"],
        [None, ""],
    ],
)
def test_wrong_requests(gateway: Running, data: list[object]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(
            urllib.request.Request(
                f"{gateway.url}/api/predict",
                json.dumps({"data": data}).encode(),
                {"Content-Type": "application/json", "Authorization": "Bearer acme-key"},
            ),
            timeout=30,
        )
    with caught.value as error:
        assert error.code == 400
        assert json.loads(error.read())["error"]["type"] == "invalid_request_error"
    assert gateway.assistant.asked == []
