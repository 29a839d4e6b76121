"""A worker over a real broker: answers, retries, dead letters, backpressure, order, drain."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable

import httpx

from gateway.queue import message
from gateway.queue.desk import APOLOGY
from gateway.queue.health import probed
from gateway.records import Handoff
from gateway.store.codec import decode
from tests.gateway.queue.broker import Broker
from tests.gateway.queue.conftest import Shop, asked, until


def test_a_ticket_is_answered_with_its_media_and_announced_once(shop: Shop, broker: Broker) -> None:
    async def run() -> None:
        ref = await shop.picture()
        async with shop.tickets() as tickets, shop.working(tickets):
            ticket = await tickets.submit(asked("手机黑屏怎么办？", 1, ref, language="zh"))
            assert ticket.state == "queued"
            assert await shop.finished([ticket.ticket_id]) == ["answered"]
            again = await tickets.submit(asked("手机黑屏怎么办？", 1, ref, language="zh"))
            assert again.ticket_id == ticket.ticket_id
        (question,) = shop.assistant.asked
        assert [hashlib.sha256(one.data).hexdigest() for one in question.media] == [ref.sha256]
        stored = shop.store.ticket("acme", ticket.ticket_id)
        assert stored.answer is not None
        assert stored.answer.text == "answer to 手机黑屏怎么办？"
        assert stored.attempts == 1
        replies = broker.read(shop.kafka.replies)
        assert {one.headers["ticket-id"] for one in replies} == {ticket.ticket_id}
        told = decode(message.Reply, replies[0].body)
        assert (told.state, told.answer) == ("answered", stored.answer)
        requests = broker.read(shop.kafka.requests)
        assert all("黑屏" not in one.body.decode() and len(one.body) < 400 for one in requests)

    asyncio.run(run())


def test_the_model_is_away_twice_and_then_answers(shop: Shop, broker: Broker) -> None:
    async def run() -> None:
        async with shop.tickets() as tickets, shop.working(tickets):
            ticket = await tickets.submit(asked("flaky", 1))
            assert await shop.finished([ticket.ticket_id]) == ["answered"]
        assert shop.store.ticket("acme", ticket.ticket_id).attempts == 3
        assert shop.assistant.attempts["request-1"] == 3
        assert broker.read(shop.kafka.dead_letters) == []

    asyncio.run(run())


def test_what_fails_for_good_goes_to_a_person_and_the_customer_is_told(shop: Shop, broker: Broker) -> None:
    async def run() -> None:
        ref = await shop.picture()
        async with shop.tickets() as tickets, shop.working(tickets):
            down = await tickets.submit(asked("模型 down", 1, language="zh"))
            broken = await tickets.submit(asked("broken secret-words", 2))
            refused = await tickets.submit(asked("refused", 3))
            await shop.objects.delete("acme", ref.object_id)
            lost = await tickets.submit(asked("with a picture", 4, ref))
            ids = [ticket.ticket_id for ticket in (down, broken, refused, lost)]
            assert await shop.finished(ids) == ["handed_off"] * 4
        for ticket, language in ((down, "zh"), (broken, "en"), (refused, "en"), (lost, "en")):
            answer = shop.store.ticket("acme", ticket.ticket_id).answer
            assert answer is not None
            assert (answer.text, answer.handoff) == (APOLOGY[language], "model_unavailable")
        assert shop.assistant.attempts == {"request-1": 3, "request-2": 3, "request-3": 1}
        waiting = {one.request_id: one for one in shop.store.handoffs("acme", "open")}
        assert set(waiting) == {f"request-{number}" for number in (1, 2, 3, 4)}
        events = [decode(Handoff, one.body) for one in broker.read(shop.kafka.handoff)]
        assert {one.handoff_id for one in events} == {one.handoff_id for one in waiting.values()}
        dead = {one.headers["ticket-id"]: one for one in broker.read(shop.kafka.dead_letters)}
        assert [dead[one].headers["reason"] for one in ids] == [
            "attempts",
            "error",
            "invalid",
            "missing_object",
        ]
        assert all("secret-words" not in repr(one) for one in dead.values())

    asyncio.run(run())


def test_poison_is_buried_with_its_reason_and_holds_nobody_up(shop: Shop, broker: Broker) -> None:
    good = message.claimed(
        b'{"version":1,"record":"Claim","data":{"ticket_id":"t","tenant":"a","request_id":"r"}}'
    )
    newer = json.dumps({"version": 99, "record": "Claim", "data": vars(good)}).encode()
    unknown = json.dumps({"version": 1, "record": "Claim", "data": vars(good)}).encode()
    poison = {"bytes": b"\xff\x00 not json", "version": newer, "size": b"x" * 200_000, "ticket": unknown}

    async def run() -> None:
        async with shop.tickets() as tickets:
            await tickets.create_topics()
            for name, body in poison.items():
                await tickets._producer.send(shop.kafka.requests, name, body, {"ticket-id": name})
            async with shop.working(tickets):
                ticket = await tickets.submit(asked("and then a good one", 1))
                assert await shop.finished([ticket.ticket_id]) == ["answered"]
                await until(lambda: len(broker.read(shop.kafka.dead_letters)) == 4, "not all are buried")
        dead = {one.headers["ticket-id"]: one for one in broker.read(shop.kafka.dead_letters)}
        reasons = {name: one.headers["reason"] for name, one in dead.items()}
        assert reasons == {
            "bytes": "not_decodable",
            "version": "not_decodable",
            "size": "not_decodable",
            "ticket": "unknown_ticket",
        }
        assert "version: got 99" in dead["version"].headers["detail"]
        assert dead["bytes"].body == poison["bytes"]
        assert dead["bytes"].headers["topic"] == shop.kafka.requests
        assert len(dead["size"].body) <= message.MAX_BYTES

    asyncio.run(run())


def test_no_more_at_once_than_allowed_and_the_group_is_kept(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(concurrency=3)
    shop.assistant.pause_s = 0.15

    async def run() -> None:
        async with shop.tickets() as tickets, shop.working(tickets):
            made = await asyncio.gather(*(tickets.submit(asked("x", number)) for number in range(20)))
            assert set(await shop.finished([ticket.ticket_id for ticket in made])) == {"answered"}
        assert shop.assistant.most_running == 3
        assert max(shop.assistant.attempts.values()) == 1

    asyncio.run(run())


def test_while_it_is_full_for_long_its_partitions_are_paused(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(concurrency=1)
    shop.assistant.pause_s = 3.0

    async def run() -> None:
        async with shop.tickets() as tickets, shop.working(tickets) as worker:
            made = [await tickets.submit(asked("x", number)) for number in range(2)]
            await until(lambda: worker._consumer._paused, "not paused")
            assert worker.alive
            shop.assistant.pause_s = 0.0
            assert await shop.finished([ticket.ticket_id for ticket in made]) == ["answered"] * 2
            assert not worker._consumer._paused
        assert shop.assistant.most_running == 1

    asyncio.run(run())


def test_turns_of_one_conversation_are_answered_in_their_order(shop: Shop) -> None:
    shop.assistant.pause_s = 0.02

    async def run() -> None:
        async with shop.tickets() as tickets:
            made = [
                await tickets.submit(asked("x", number, conversation_id=f"c{number % 2}"))
                for number in range(12)
            ]
            async with shop.working(tickets):
                await shop.finished([ticket.ticket_id for ticket in made])
        order = [(one.conversation_id, int(one.request_id.split("-")[1])) for one in shop.assistant.asked]
        for name in ("c0", "c1"):
            numbers = [number for conversation, number in order if conversation == name]
            assert numbers == sorted(numbers)
            assert len(numbers) == 6

    asyncio.run(run())


def test_told_to_end_it_finishes_what_it_has_and_leaves_the_rest(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(concurrency=2)
    shop.assistant.pause_s = 0.5

    async def run() -> None:
        async with shop.tickets() as tickets:
            made = [await tickets.submit(asked("x", number)) for number in range(6)]
            ids = [ticket.ticket_id for ticket in made]
            async with shop.working(tickets):
                await until(lambda: shop.assistant.running == 2, "nothing began")
            assert sorted(shop.states(ids)) == ["answered"] * 2 + ["queued"] * 4
            assert shop.assistant.cancelled == 0
            async with shop.working(tickets):
                assert await shop.finished(ids) == ["answered"] * 6
        assert max(shop.assistant.attempts.values()) == 1

    asyncio.run(run())


def test_what_is_not_finished_in_time_is_given_back(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(drain_s=0.2)

    async def run() -> None:
        async with shop.tickets() as tickets:
            ticket = await tickets.submit(asked("slow", 1))
            async with shop.working(tickets):
                await until(lambda: shop.assistant.running == 1, "it did not begin")
                began = time.monotonic()
            assert time.monotonic() - began < 1.4
            assert shop.assistant.cancelled == 1
            assert shop.states([ticket.ticket_id]) == ["working"]
            async with shop.working(tickets):
                assert await shop.finished([ticket.ticket_id]) == ["answered"]

    asyncio.run(run())


def test_probes(shop: Shop) -> None:
    with probed("127.0.0.1", 0, lambda: True) as port, httpx.Client(trust_env=False) as http:
        url = f"http://127.0.0.1:{port}"
        assert http.get(f"{url}/healthz").status_code == 200
        assert "cs_tickets_total" in http.get(f"{url}/metrics").text
        assert http.get(f"{url}/other").status_code == 404
    with probed("127.0.0.1", 0, lambda: False) as port, httpx.Client(trust_env=False) as http:
        assert http.get(f"http://127.0.0.1:{port}/healthz").status_code == 503
