"""The codec gives back what it was given, or says that it cannot; it never guesses, and quotes no content."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.records import Answer, Handoff, MediaRef, Message, Question, Sampling
from gateway.store.codec import VERSION, NotDecodable, decode, encode
from tests.gateway.conftest import answer
from tests.gateway.store.conftest import asked, handed, ref

Asked = Question[MediaRef]
FULL = replace(
    asked("r", ref("a" * 32), words="“黑屏” \u0000\u2028 👩‍🔧 {}", conversation_id="c"),
    sampling=Sampling(5, 0.5, 0.9, 20, 7, 0.1, -0.1, ("\n", "停")),
    tools="[]",
    personal=True,
)


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (Asked, FULL),
        (Asked, asked()),
        (Asked, replace(FULL, messages=(*FULL.messages, Message("assistant", ()), *FULL.messages))),
        (Answer, answer()),
        (Answer, answer("", citations=(), handoff="no_knowledge", finish_reason="length", cached=True)),
        (Handoff, replace(handed("h", "r", ref("b" * 32)), replies=((1.5, "李", "好"),))),
    ],
)
def test_there_and_back(kind: Any, record: object) -> None:
    data = encode(kind, record)
    assert decode(kind, data) == record
    assert decode(kind, data.decode()) == record


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    envelope = json.loads(encode(Asked, FULL))
    change(envelope)
    return json.dumps(envelope).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an envelope"),
        (b"\xff\xfe", "not an envelope"),
        (b"[]", "not an envelope"),
        (b"null", "not an envelope"),
        (b'{"version":1}', "not an envelope"),
        (changed(lambda it: it.update(version=VERSION + 1)), "version: got 2, allowed: 1"),
        (changed(lambda it: it.update(version="1")), "version"),
        (changed(lambda it: it.update(record="Answer")), "record: got 'Answer'"),
        (changed(lambda it: it["data"].update(surprise=1)), "unknown or missing"),
        (changed(lambda it: it["data"].pop("tools")), "unknown or missing"),
        (changed(lambda it: it["data"].pop("tenant")), "tenant: missing"),
        (changed(lambda it: it["data"].update(language="fr")), "language: literal_error"),
        (changed(lambda it: it["data"].update(personal=1)), "personal: bool_type"),
        (changed(lambda it: it["data"]["sampling"].update(seed=True)), "sampling.seed: int_type"),
        (changed(lambda it: it["data"]["sampling"].update(max_tokens="5")), "sampling.max_tokens: int_type"),
        (changed(lambda it: it["data"]["messages"][0]["content"].append(7)), "messages.0.content"),
        (changed(lambda it: it["data"]["messages"][0]["content"][0].update(data="")), "unknown or missing"),
    ],
)
def test_what_is_not_exactly_a_record_is_refused_without_quoting_it(data: bytes, says: str) -> None:
    with pytest.raises(NotDecodable) as caught:
        decode(Asked, data)
    assert says in str(caught.value)
    assert "黑屏" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_could_not_be_read_back_is_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        encode(Answer, answer(confidence=number))
