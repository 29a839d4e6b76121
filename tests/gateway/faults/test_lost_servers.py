"""Triton and Redis are away. The real parts of a worker, as `open_parts` makes them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.parts import open_parts
from gateway.queue.desk import APOLOGY
from gateway.queue.worker import Worker
from gateway.settings import Cache, Database, Knowledge, Objects, Settings, Triton
from tests.gateway.queue.broker import Broker, free_port
from tests.gateway.queue.conftest import asked, until


def test_without_triton_and_redis_a_ticket_is_tried_again_and_then_handed_over(
    broker: Broker, tmp_path: Path
) -> None:
    settings = Settings(
        kafka=broker.settings(),
        triton=Triton(url=f"127.0.0.1:{free_port()}", timeout_s=2),
        cache=Cache(url=f"redis://127.0.0.1:{free_port()}/0"),
        database=Database(url=f"sqlite:///{tmp_path}/gateway.db"),
        objects=Objects(url=str(tmp_path / "objects")),
        knowledge=Knowledge(database=tmp_path / "knowledge.db"),
    )

    async def run() -> None:
        async with open_parts(settings) as parts:
            assert parts.tickets is not None
            worker = Worker(parts)
            running = asyncio.ensure_future(worker.run())
            ticket = await parts.tickets.submit(asked("手机黑屏怎么办？", 1, language="zh"))

            def state() -> str:
                return parts.store.ticket("acme", ticket.ticket_id).state

            await until(lambda: state() == "handed_off", "not handed over", 30)
            worker.stop()
            await running
            stored = parts.store.ticket("acme", ticket.ticket_id)
            assert stored.answer is not None
            assert stored.answer.text == APOLOGY["zh"]
            assert stored.attempts == 3
            (handoff,) = parts.store.handoffs("acme")
            assert handoff.reason == "model_unavailable"

    asyncio.run(run())
    (dead,) = broker.read(settings.kafka.dead_letters)
    assert dead.headers["reason"] == "attempts"
