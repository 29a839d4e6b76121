"""When two questions are the same: everything that the answer depends on tells them apart, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.cache.key import key, normal
from gateway.records import Media, Message, Question, Sampling, Versions
from tests.gateway.conftest import VERSIONS, picture, question

BASE = question("黑屏怎么办？", picture())


@pytest.mark.parametrize(
    "other",
    [
        question("黑屏怎么办？", picture("e" * 64)),
        question("黑屏怎么办？"),
        question("黑屏怎么办？", picture(), picture()),
        question("蓝屏怎么办？", picture()),
        question("黑屏怎么办？", picture(), tenant="bank"),
        question("黑屏怎么办？", picture(), scene="education"),
        question("黑屏怎么办？", picture(), language="en"),
        question("黑屏怎么办？", picture(), grounded=False),
        question("黑屏怎么办？", picture(), sampling=Sampling(max_tokens=5)),
        replace(BASE, messages=(Message("user", ("早",)), Message("assistant", ("您好",)), *BASE.messages)),
        replace(BASE, messages=(Message("user", ("黑屏怎么办？", picture())),)),
        replace(BASE, messages=(Message("system", ("黑屏怎么办？", picture())),)),
    ],
    ids=lambda q: "",
)
def test_whatever_changes_the_answer_changes_the_key(other: Question[Media]) -> None:
    assert key(other, VERSIONS) not in (None, key(BASE, VERSIONS))


@pytest.mark.parametrize("field", ["model", "adapter", "prompt", "knowledge"])
def test_every_version_counts(field: str) -> None:
    assert key(BASE, replace(VERSIONS, **{field: "another"})) != key(BASE, VERSIONS)


def test_request_and_conversation_do_not_count() -> None:
    again = replace(BASE, request_id="request-2", conversation_id="c-9")
    assert key(again, VERSIONS) == key(BASE, VERSIONS)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("黑屏怎么办？", "黑屏怎么办"),
        ("My  phone\nis dead", "my phone is dead."),
        ("ＡＢＣ１２３", "abc123"),
        ("能退吗……", "能退吗"),
        ("价格　￥５", "价格 ¥5"),
        ("cafe\u0301", "café"),
    ],
)
def test_width_case_space_and_the_last_mark_do_not_count(left: str, right: str) -> None:
    assert normal(left) == normal(right)


@pytest.mark.parametrize(
    "words",
    [
        ("1 2", "12"),
        ("不黑屏", "黑屏"),
        ("is it?no", "is it no"),
        ("5²等于多少", "52等于多少"),
        ("①和②有什么不同", "1和2有什么不同"),
        ("what is 5!", "what is 5"),
        ("½ cup", "1⁄2 cup"),
    ],
)
def test_other_words_stay_other_words(words: tuple[str, str]) -> None:
    assert normal(words[0]) != normal(words[1])


@pytest.mark.parametrize(
    "personal",
    [
        replace(BASE, personal=True),
        replace(BASE, tools="[]"),
        question("黑屏怎么办？", picture(masked=1)),
    ],
    ids=["text", "tools", "picture"],
)
def test_personal_questions_and_tools_have_no_key(personal: Question[Media]) -> None:
    assert key(personal, VERSIONS) is None


def test_a_text_cannot_pretend_to_be_a_picture(make_question: Callable[..., Any], versions: Versions) -> None:
    assert key(make_question("d" * 64), versions) != key(make_question("", picture()), versions)
