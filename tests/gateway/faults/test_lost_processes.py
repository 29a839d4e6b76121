"""Workers are killed, ended and replaced, the broker goes away: no ticket is lost, and each has one answer."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

from gateway.queue import message
from gateway.store.codec import decode
from tests.gateway.faults.process import Process
from tests.gateway.queue.broker import Broker, Mock
from tests.gateway.queue.conftest import Shop, asked, until

Start = Callable[..., Process]


def answers_and_replies(shop: Shop, broker: Broker | Mock, directory: Path, ids: list[str]) -> None:
    """One answer in the store for each ticket, and on the topic of replies the same one, however often."""
    with sqlite3.connect(directory / "gateway.db") as database:
        (rows,) = database.execute("select count(*) from answers").fetchone()
    database.close()
    assert rows == len(ids)
    told: dict[str, set[str]] = {}
    for one in broker.read(shop.kafka.replies):
        reply = decode(message.Reply, one.body)
        assert reply.answer is not None
        told.setdefault(reply.ticket_id, set()).add(f"{reply.state} {reply.answer.text}")
    assert set(told) == set(ids)
    for ticket_id, texts in told.items():
        stored = shop.store.ticket("acme", ticket_id)
        assert stored.answer is not None
        assert texts == {f"{stored.state} {stored.answer.text}"}


async def kill_and_replace(
    shop: Shop, broker: Broker | Mock, start: Start, path: Path, instance: str
) -> None:
    first = start(shop, pause_s=60.0, instance=instance)
    async with shop.tickets() as tickets:
        made = [await tickets.submit(asked(f"问题 {number}", number)) for number in range(3)]
        ids = [ticket.ticket_id for ticket in made]
        await until(lambda: set(shop.states(ids)) == {"working"}, "nothing began", 20)
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
        start(shop, instance=instance)
        assert await shop.finished(ids, 40) == ["answered"] * 3
        await until(lambda: len(broker.read(shop.kafka.replies)) >= 3, "no replies")
    assert [shop.store.ticket("acme", one).attempts for one in ids] == [2] * 3
    answers_and_replies(shop, broker, path, ids)


def test_another_worker_takes_up_what_a_killed_one_had(
    mock_shop: Callable[..., Shop], mock: Mock, start_worker: Start, tmp_path: Path
) -> None:
    asyncio.run(kill_and_replace(mock_shop(), mock, start_worker, tmp_path, ""))


def test_a_killed_worker_that_is_started_again_takes_up_what_it_had(
    shop: Shop, broker: Broker, start_worker: Start, tmp_path: Path
) -> None:
    asyncio.run(kill_and_replace(shop, broker, start_worker, tmp_path, "worker-1"))


def test_fifty_tickets_while_workers_come_and_go(
    mock_shop: Callable[..., Shop], mock: Mock, start_worker: Start, tmp_path: Path
) -> None:
    shop = mock_shop(concurrency=4)

    async def run() -> None:
        workers = [start_worker(shop, pause_s=0.1), start_worker(shop, pause_s=0.1)]
        async with shop.tickets() as tickets:
            made = []
            for number in range(50):
                text = "unsure" if number % 10 == 0 else "flaky" if number % 10 == 5 else "x"
                made.append(await tickets.submit(asked(text, number)))
                if number == 15:
                    assert await asyncio.to_thread(workers[0].end) == 0
                if number == 30:
                    workers.append(start_worker(shop, pause_s=0.1))
                if number == 40:
                    workers[1].end(signal.SIGKILL)
            ids = [ticket.ticket_id for ticket in made]
            states = await shop.finished(ids, 60)
            assert states == ["handed_off" if number % 10 == 0 else "answered" for number in range(50)]
            assert await asyncio.to_thread(workers[2].end) == 0
        answers_and_replies(shop, mock, tmp_path, ids)
        assert len(shop.store.handoffs("acme")) == 5

    asyncio.run(run())


def test_the_broker_is_away_and_comes_back(
    shop: Shop, broker: Broker, start_worker: Start, tmp_path: Path
) -> None:
    async def run() -> None:
        start_worker(shop)
        async with shop.tickets() as tickets:
            before = await tickets.submit(asked("before", 0))
            assert await shop.finished([before.ticket_id]) == ["answered"]
            broker.stop()
            during = await tickets.submit(asked("during", 1))
            assert during.state == "queued"
            await asyncio.sleep(1)
            assert shop.states([during.ticket_id]) == ["queued"]
            broker.start()
            after = await tickets.submit(asked("after", 2))
            ids = [ticket.ticket_id for ticket in (before, during, after)]
            assert await shop.finished(ids, 60) == ["answered"] * 3
            told = lambda: {one.headers["ticket-id"] for one in broker.read(shop.kafka.replies)}  # noqa: E731
            await until(lambda: told() == set(ids), "not all were announced", 20)
        answers_and_replies(shop, broker, tmp_path, ids)

    asyncio.run(run())


def test_what_the_broker_has_lost_is_published_again(make_shop: Callable[..., Shop], broker: Broker) -> None:
    shop = make_shop(lost_s=1.0)

    async def run() -> None:
        ticket = shop.store.create_ticket(asked("it never arrived", 1))
        shop.store.published(ticket.ticket_id)  # as the broker said, before it lost its disk
        async with shop.tickets() as tickets, shop.working(tickets):
            assert await shop.finished([ticket.ticket_id], 30) == ["answered"]

    asyncio.run(run())
