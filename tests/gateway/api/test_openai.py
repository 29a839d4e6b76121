"""The official client, as customers' programs use it."""

from __future__ import annotations

import base64
import json

import openai
import pytest

from gateway.errors import Unavailable
from tests.gateway.api.conftest import Running

BLACK = "手机黑屏了怎么办？"


def _parts(picture: bytes, text: str = BLACK) -> list[dict[str, object]]:
    uri = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": uri}}]


def test_a_whole_answer(gateway: Running) -> None:
    reply = gateway.openai().chat.completions.create(
        model="qwen3_vl",
        messages=[{"role": "user", "content": BLACK}],
        temperature=0.2,
        max_tokens=64,
        seed=3,
    )
    assert reply.choices[0].message.content == "请长按电源键 10 秒[1]。"
    assert reply.choices[0].finish_reason == "stop"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (40, 7, 47)
    said = reply.model_extra["customer_service"]
    assert said["citations"][0]["article_id"] == "black-screen-zh"
    assert (said["confidence"], said["handoff"], said["language"]) == (0.87, None, "zh")
    asked = gateway.assistant.asked[0]
    assert (asked.tenant, asked.text, asked.scene) == ("acme", BLACK, "after_sales")
    assert (asked.sampling.temperature, asked.sampling.max_tokens, asked.sampling.seed) == (0.2, 64, 3)
    assert gateway.store.answer("acme", said["request_id"]).text == reply.choices[0].message.content


def test_streaming_with_a_picture(gateway: Running, picture: bytes) -> None:
    stream = gateway.openai().chat.completions.create(
        model="qwen3_vl",
        messages=[{"role": "user", "content": _parts(picture)}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"customer_service": {"conversation_id": "c-77", "scene": "technical_support"}},
    )
    chunks = list(stream)
    texts = [
        chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content
    ]
    assert texts == ["请长按", "电源键 10 秒", "[1]。"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 47
    last = chunks[-2]
    assert last.choices[0].finish_reason == "stop"
    said = last.model_extra["customer_service"]
    assert (said["conversation_id"], said["scene"]) == ("c-77", "technical_support")
    (medium,) = gateway.assistant.asked[0].media
    assert (medium.kind, medium.width, medium.height) == ("image", 160, 120)
    (stored,) = gateway.store.asked("acme", said["request_id"]).media
    assert gateway.http().get(f"/v1/media/{stored.object_id}").content == medium.data


def test_order_of_content_in_every_form(gateway: Running, picture: bytes) -> None:
    packed = base64.b64encode(picture).decode()
    uri = f"data:application/octet-stream;base64,{packed}"
    forms: list[dict[str, object]] = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": packed}},
        {"type": "text", "text": "one"},
        {"type": "image", "image": uri},
        {"type": "input_image", "image_url": uri},
        {"type": "text", "text": "two"},
        {"type": "image_url", "image_url": uri},
    ]
    reply = gateway.http().post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": forms}]}
    )
    assert reply.status_code == 200, reply.text
    content = gateway.assistant.asked[0].messages[0].content
    assert [part if isinstance(part, str) else part.kind for part in content] == [
        "image", "one", "image", "image", "two", "image",
    ]  # fmt: skip
    assert gateway.assistant.asked[0].language == "en"


WEATHER = {
    "type": "function",
    "function": {
        "name": "lookup_order",
        "parameters": {"type": "object", "properties": {"id": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "lookup_order", "arguments": {"id": "订单9"}}\n</tool_call>'


@pytest.mark.parametrize("stream", [False, True])
def test_tools(gateway: Running, stream: bool) -> None:
    gateway.assistant.pieces = (
        "我查一下。\n<tool",
        "_call>",
        CALL.removeprefix("<tool_call>"),
        "\n\n参考资料：x",
    )
    gateway.assistant.handoff = "low_confidence"
    client = gateway.openai()
    asked = {"model": "qwen3_vl", "messages": [{"role": "user", "content": "订单9在哪"}], "tools": [WEATHER]}
    if stream:
        with client.chat.completions.stream(**asked) as events:
            for _ in events:
                pass
            reply = events.get_final_completion()
    else:
        reply = client.chat.completions.create(**asked)
    choice = reply.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "lookup_order"
    assert json.loads(call.function.arguments) == {"id": "订单9"}
    assert choice.message.content.rstrip() == "我查一下。"
    assert json.loads(gateway.assistant.asked[0].tools)["function"]["name"] == "lookup_order"
    assert gateway.queue.published == []
    # and the tool's result goes back in
    gateway.assistant.pieces = ("已发货。",)
    history = [
        {"role": "user", "content": "订单9在哪"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [call.model_dump(exclude={"parsed_arguments", "index"})],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "shipped"},
    ]
    client.chat.completions.create(model="qwen3_vl", messages=history, tools=[WEATHER])
    messages = gateway.assistant.asked[1].messages
    assert CALL.replace("\n", "") == messages[1].text.replace("\n", "")
    assert messages[2].role == "user"
    assert "shipped" in messages[2].text
    assert "<tool_response>" in messages[2].text


def test_a_call_of_an_unknown_tool_is_text(gateway: Running) -> None:
    text = CALL.replace("lookup_order", "delete_everything")
    gateway.assistant.pieces = (text,)
    reply = gateway.openai().chat.completions.create(
        model="qwen3_vl", messages=[{"role": "user", "content": "x"}], tools=[WEATHER]
    )
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].message.content == text


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}),
        ("n", 2),
        ("logprobs", True),
        ("tool_choice", "required"),
        ("logit_bias", {"1": 5}),
        ("modalities", ["text", "audio"]),
    ],
)
def test_what_is_not_offered_is_refused(gateway: Running, option: str, value: object) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        gateway.openai().chat.completions.create(
            model="qwen3_vl", messages=[{"role": "user", "content": "x"}], extra_body={option: value}
        )
    assert (caught.value.code, caught.value.param) == ("unsupported", option)
    assert gateway.assistant.asked == []


def test_unknown_fields_are_named_in_a_header(gateway: Running) -> None:
    reply = gateway.openai().chat.completions.with_raw_response.create(
        model="qwen3_vl",
        messages=[{"role": "user", "content": "x"}],
        extra_body={"service_tier": "auto", "x\r\ny": 1, "metadata": {}},
    )
    assert set(reply.headers["X-Ignored-Fields"].split(", ")) == {"service_tier", "metadata"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_is_away(gateway: Running, stream: bool) -> None:
    gateway.assistant.fault = Unavailable("the model server is busy or down", retry_after_s=7)
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.openai().chat.completions.create(
            model="qwen3_vl", messages=[{"role": "user", "content": "x"}], stream=stream
        )
    assert caught.value.status_code == 503
    assert caught.value.response.headers["Retry-After"] == "7"


def test_a_model_that_goes_away_in_the_middle(gateway: Running) -> None:
    gateway.assistant.fault, gateway.assistant.fault_after = Unavailable("gone"), 2
    texts = []
    with pytest.raises(openai.APIError, match="gone"):
        for chunk in gateway.openai().chat.completions.create(
            model="qwen3_vl", messages=[{"role": "user", "content": "x"}], stream=True
        ):
            texts.append(chunk.choices[0].delta.content)
    assert texts == ["", "请长按", "电源键 10 秒"]


def test_keys_and_models(gateway: Running) -> None:
    with pytest.raises(openai.AuthenticationError):
        gateway.openai("nobody").models.list()
    assert [model.id for model in gateway.openai().models.list()] == ["qwen3_vl"]
    with pytest.raises(openai.NotFoundError):
        gateway.openai().chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}])
