"""Rates and numbers at once, by tenant; in this process and in a real Valkey."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest

from gateway.api.limits import Limits
from gateway.errors import RateLimited
from gateway.settings import Tenant
from tests.gateway.api.conftest import wait_for

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "x"}]}


def test_too_many_in_a_minute(start: Any) -> None:
    tenants = {"a": {"keys": ["a-key"], "requests_per_minute": 3}, "b": {"keys": ["b-key"]}}
    with start(tenants=tenants) as gateway:
        replies = [gateway.http("a-key").post(CHAT, json=BODY) for _ in range(4)]
        assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
        assert 1 <= int(replies[-1].headers["Retry-After"]) <= 20
        assert replies[-1].json()["error"]["code"] == "rate_limit_exceeded"
        assert gateway.http("b-key").post(CHAT, json=BODY).status_code == 200
        assert gateway.http("a-key").get("/v1/scenes").status_code == 200  # what costs nothing is not counted


@pytest.mark.parametrize("stream", [True, False])
def test_too_many_at_once(start: Any, stream: bool) -> None:
    with start(tenants={"a": {"keys": ["a-key"], "max_concurrent": 1}}) as gateway:
        gateway.assistant.pieces, gateway.assistant.pause_s = ("x",) * 5, 0.1
        first = gateway.http("a-key")
        statuses: list[int] = []
        thread = threading.Thread(
            target=lambda: statuses.append(first.post(CHAT, json=BODY | {"stream": stream}).status_code)
        )
        thread.start()
        wait_for(lambda: gateway.assistant.running == 1, "the first did not begin")
        refused = gateway.http("a-key").post(CHAT, json=BODY | {"stream": stream})
        thread.join()
        assert (statuses, refused.status_code) == ([200], 429)
        assert refused.headers["Retry-After"] == "1"
        assert gateway.http("a-key").post(CHAT, json=BODY).status_code == 200


async def _taken(limits: Limits, times: int) -> list[float]:
    waits = []
    for _ in range(times):
        try:
            await limits.take("a")
            waits.append(0.0)
        except RateLimited as error:
            waits.append(error.retry_after_s or 0.0)
    return waits


def test_two_gateways_count_together(valkey_url: str) -> None:
    async def both() -> list[float]:
        one, two = (Limits({"a": Tenant(requests_per_minute=4)}, valkey_url) for _ in range(2))
        try:
            return await _taken(one, 3) + await _taken(two, 3)
        finally:
            await one.close()
            await two.close()

    waits = asyncio.run(both())
    assert waits[:4] == [0.0] * 4
    assert all(10 < wait <= 15 for wait in waits[4:])


def test_redis_away_is_counted_here() -> None:
    async def alone() -> list[float]:
        limits = Limits({"a": Tenant(requests_per_minute=2)}, "redis://127.0.0.1:1/0")
        try:
            return await _taken(limits, 3)
        finally:
            await limits.close()

    waits = asyncio.run(alone())
    assert waits[:2] == [0.0, 0.0]
    assert waits[2] > 0


def test_more_text_than_any_model_reads(start: Any) -> None:
    with start(media={"mask": False, "max_text_chars": 1000}) as gateway:
        client = gateway.http()

        def said(*texts: str) -> httpx.Response:
            turns = [{"role": "user", "content": text} for text in texts]
            return client.post("/v1/chat/completions", json={"messages": turns})

        assert said("黑" * 500, "屏" * 500).status_code == 200
        reply = said("黑" * 500, "屏" * 501)
        assert reply.status_code == 413
        assert "1001 characters" in reply.json()["error"]["message"]
        assert len(gateway.assistant.asked) == 1
