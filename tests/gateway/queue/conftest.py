"""A broker for the session, and in each test a store, objects and topics of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.objects import Objects
from gateway.queue import Tickets
from gateway.queue.worker import Worker
from gateway.records import Media, MediaRef, Message, Question
from gateway.settings import Kafka, Settings
from gateway.store import Store
from tests.gateway.queue.broker import Broker
from tests.gateway.queue.scripted import Scripted


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    started = Broker(tmp_path_factory.mktemp("broker") / "data")
    yield started
    started.stop()


def asked(text: str, number: int = 0, *media: MediaRef, **more: Any) -> Question[MediaRef]:
    fields: dict[str, Any] = {
        "request_id": f"request-{number}",
        "tenant": "acme",
        "scene": "after_sales",
        "language": "en",
        "messages": (Message("user", (*media, text)),),
    }
    return Question(**(fields | more))


@dataclass
class Shop:
    """What a gateway and its workers have in common."""

    kafka: Kafka
    store: Store
    objects: Objects
    assistant: Scripted = field(default_factory=Scripted)

    @asynccontextmanager
    async def tickets(self) -> AsyncIterator[Tickets]:
        opened = Tickets(self.kafka, self.store, self.objects)
        try:
            yield opened
        finally:
            await opened.close()

    def worker(self, tickets: Tickets) -> Worker:
        parts: Any = SimpleNamespace(
            settings=Settings(kafka=self.kafka),
            store=self.store,
            objects=self.objects,
            assistant=self.assistant,
            tickets=tickets,
        )
        return Worker(parts)

    @asynccontextmanager
    async def working(self, tickets: Tickets) -> AsyncIterator[Worker]:
        worker = self.worker(tickets)
        running = asyncio.ensure_future(worker.run())
        try:
            yield worker
        finally:
            worker.stop()
            await running

    async def picture(self, data: bytes = b"\xff\xd8 a picture") -> MediaRef:
        return await self.objects.put("acme", Media("image", data, "image/jpeg", "d" * 64, 64, 48))

    def states(self, ids: list[str]) -> list[str]:
        return [self.store.ticket("acme", ticket_id).state for ticket_id in ids]

    async def finished(self, ids: list[str], wait_s: float = 20.0) -> list[str]:
        await until(lambda: not {"queued", "working"} & set(self.states(ids)), "tickets are open", wait_s)
        return self.states(ids)


async def until(condition: Callable[[], Any], what: str, wait_s: float = 10.0) -> None:
    end = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


@pytest.fixture
def make_shop(broker: Broker, tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    made: list[Store] = []

    def make(**changes: Any) -> Shop:
        store = Store(f"sqlite:///{tmp_path}/gateway.db")
        made.append(store)
        return Shop(broker.settings(**changes), store, Objects(str(tmp_path / "objects")))

    yield make
    for store in made:
        store.close()


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    return make_shop()
