"""Chat JSON: what is accepted, and that every refusal names its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.errors import InvalidMessages
from ensemble.preprocessing.messages import check_media_counts, parse_messages


def parse(messages: Any) -> Any:
    return parse_messages(json.dumps(messages).encode(), max_bytes=10_000)


def test_parts_become_what_templates_take_and_media_keep_their_order() -> None:
    chat = parse(
        [
            {"role": "system", "content": "be kind"},
            {
                "role": "user",
                "content": [{"type": "video"}, {"type": "text", "text": "a"}, {"type": "image"}],
                "name": None,
            },
        ]
    )
    assert chat.media == ("video", "image")
    assert chat.messages[1] == {
        "role": "user",
        "content": [{"type": "video"}, {"type": "text", "text": "a"}, {"type": "image"}],
    }
    assert chat.texts == ["be kind", "a"]


@pytest.mark.parametrize(
    "spelling",
    [{"type": "image_url"}, {"type": "input_image", "detail": None}, {"type": "image_url", "image_url": {}}],
)
def test_bare_placeholders_of_other_apis_stand_for_images(spelling: dict[str, Any]) -> None:
    assert parse([{"role": "user", "content": [spelling]}]).messages[0]["content"] == [{"type": "image"}]


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ({"role": "user"}, "messages"),
        ([], "messages"),
        (["hello"], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}], "messages[1].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": "x", "tool_calls": []}], "messages[0].tool_calls"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "audio"}]}],
            "messages[0].content[1].type",
        ),
        ([{"role": "user", "content": [{"type": ["image"]}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "x", "url": "y"}]}],
            "messages[0].content[0].url",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}],
            "messages[0].content[0].image_url",
        ),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content"),
    ],
)
def test_each_fault_names_its_place(messages: Any, field: str) -> None:
    with pytest.raises(InvalidMessages) as caught:
        parse(messages)
    assert caught.value.field == field


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 9000, b"9" * 5000, b"null", b'"x"'])
def test_text_that_is_no_list_of_messages_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidMessages):
        parse_messages(text, max_bytes=10_000)


def test_too_many_bytes_are_refused_before_they_are_parsed() -> None:
    with pytest.raises(InvalidMessages, match="10001 bytes; allowed: at most 10000 bytes"):
        parse_messages(b"[" * 10_001, max_bytes=10_000)


@pytest.mark.parametrize(("images", "videos"), [(0, 1), (2, 1), (1, 0)])
def test_counts_that_do_not_match_the_placeholders_are_refused(images: int, videos: int) -> None:
    chat = parse([{"role": "user", "content": [{"type": "image"}, {"type": "video"}]}])
    check_media_counts(chat, 1, 1)
    with pytest.raises(InvalidMessages, match="parts for"):
        check_media_counts(chat, images, videos)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["user", "text", "image"]),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]) | st.text(), inner)
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_json_raises_anything_but_invalid_messages(value: Any) -> None:
    try:
        chat = parse(value)
    except InvalidMessages as error:
        place = error.field
    else:
        place = "messages" if chat.messages else "nothing"
    assert place.startswith("messages")
