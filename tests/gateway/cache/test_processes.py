"""The answer cache between processes: gateways and workers share one inference, also when the one that makes it dies."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from multiprocessing.queues import Queue
from typing import TYPE_CHECKING

from gateway.cache import AnswerCache, Lead
from gateway.cache import answers as module
from gateway.records import Answer
from tests.gateway.conftest import answer

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

SPAWN = multiprocessing.get_context("spawn")


def asks(url: str, key: str, times: int, barrier: Barrier, told: Queue[tuple[int, int]]) -> None:
    """A process: tells how many inferences it made, and how many answers it got."""

    async def one(cache: AnswerCache) -> int:
        found = await cache.get_or_lead(key)
        if isinstance(found, Answer):
            assert found == answer()
            return 0
        async with found as lead:
            await asyncio.sleep(0.5)
            await lead.keep(answer())
        return 1

    async def run() -> list[int]:
        cache = AnswerCache(url, 60, 20.0)
        try:
            return await asyncio.gather(*(one(cache) for _ in range(times)))
        finally:
            await cache.close()

    barrier.wait(30)
    made = asyncio.run(run())
    told.put((sum(made), len(made)))


def leads_for_ever(url: str, key: str, told: Queue[tuple[int, int]]) -> None:
    """A process that leads, and renews its lock, until it is killed."""

    async def run() -> None:
        cache = AnswerCache(url, 60, 20.0)
        lead = await cache.get_or_lead(key)
        assert isinstance(lead, Lead)
        async with lead:
            told.put((0, 0))
            await asyncio.sleep(60)

    module._LOCK_MS, module._RENEW_S = 600, 0.2  # type: ignore[misc]
    asyncio.run(run())


def test_three_processes_make_one_inference(valkey_url: str) -> None:
    barrier = SPAWN.Barrier(3)
    told: Queue[tuple[int, int]] = SPAWN.Queue()
    processes = [
        SPAWN.Process(target=asks, args=(valkey_url, "processes", 20, barrier, told)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    results = [told.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
    assert sum(made for made, _ in results) == 1
    assert sum(asked for _, asked in results) == 60


def test_a_killed_leader_is_followed(valkey_url: str) -> None:
    told: Queue[tuple[int, int]] = SPAWN.Queue()
    leader = SPAWN.Process(target=leads_for_ever, args=(valkey_url, "killed", told))
    leader.start()
    told.get(timeout=60)

    async def run() -> float:
        cache = AnswerCache(valkey_url, 60, 20.0)
        try:
            waiting = asyncio.create_task(cache.get_or_lead("killed"))
            await asyncio.sleep(1.5)  # longer than the lock: it is being renewed
            assert not waiting.done()
            leader.kill()
            start_s = time.monotonic()
            assert isinstance(await waiting, Lead)
            return time.monotonic() - start_s
        finally:
            await cache.close()

    try:
        assert asyncio.run(run()) < 2.0
    finally:
        leader.kill()
        leader.join(30)
