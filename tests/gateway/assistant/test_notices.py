"""Who asks for a person, and who only talks about people."""

from __future__ import annotations

import pytest

from gateway.assistant.notices import asks_for_person


@pytest.mark.parametrize(
    "text",
    [
        "转人工",
        "请帮我转人工客服，谢谢",
        "我要找人工",
        "Please let me speak to a  human",
        "I want a REAL PERSON",
        "live agent now",
    ],
)
def test_a_person_is_asked_for(text: str) -> None:
    assert asks_for_person(text)


@pytest.mark.parametrize(
    "text",
    [
        "手机打不开",
        "人工智能是什么",
        "Is this human readable?",
        "a person dropped my phone",
        "",
        "人工费多少钱",
    ],
)
def test_others_are_left_to_the_model(text: str) -> None:
    assert not asks_for_person(text)
