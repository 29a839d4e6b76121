"""Triton and Valkey go away in the middle of work, and come back. Every process and every protocol is the real one; the engines
are of random weights, so that an answer goes on long enough to be broken off.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.queue import message
from gateway.store.codec import decode
from tests.gateway.faults.town import Town, answers, town, until

pytestmark = pytest.mark.server
ENDED = ("answered", "handed_off")


@pytest.fixture(scope="module")
def place(endless_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Town, Path]]:
    directory = tmp_path_factory.mktemp("town")
    with town(endless_engines, directory) as started:
        yield started, directory


def asked(text: str, tokens: int = 400) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}


class Stream:
    """A chat that is read by a thread of its own, so that the test can break things meanwhile."""

    def __init__(self, place: Town, text: str, tokens: int) -> None:
        self.events: list[dict[str, Any]] = []
        self.done = False
        self._thread = threading.Thread(
            target=self._read, args=(place, asked(text, tokens) | {"stream": True})
        )
        self._thread.start()
        until(lambda: len(self.deltas) > 3, "the stream did not begin")

    def _read(self, place: Town, body: dict[str, Any]) -> None:
        with place.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as reply:
            assert reply.status_code == 200
            for line in reply.iter_lines():
                if line == "data: [DONE]":
                    self.done = True
                elif line.startswith("data: "):
                    self.events.append(json.loads(line.removeprefix("data: ")))

    @property
    def _choices(self) -> list[dict[str, Any]]:
        return [choice for each in self.events for choice in each.get("choices", ())]

    @property
    def deltas(self) -> list[str]:
        return [choice["delta"]["content"] for choice in self._choices if choice["delta"].get("content")]

    @property
    def finish_reasons(self) -> list[str]:
        return [choice["finish_reason"] for choice in self._choices if choice["finish_reason"]]

    def end(self) -> Stream:
        self._thread.join(60)
        assert not self._thread.is_alive(), "the stream hangs"
        return self


def submitted(place: Town, count: int, what: str, tokens: int = 400) -> list[str]:
    with place.http() as client:
        replies = [
            client.post("/v1/tickets", json=asked(f"{what} {number}", tokens)) for number in range(count)
        ]
    assert {reply.status_code for reply in replies} == {202}
    return [reply.json()["ticket_id"] for reply in replies]


def under_way(place: Town, count: int, what: str) -> list[str]:
    """Tickets of which one at least is being answered. They are long: short ones can be done before they are looked at."""
    ids = submitted(place, count, what, 2000)
    seen: list[str] = []

    def begun() -> bool:
        seen[:] = states(place, ids)
        return "working" in seen

    until(begun, lambda: f"no ticket is being answered: {seen}")
    return ids


def states(place: Town, ids: list[str]) -> list[str]:
    with place.http() as client:
        return [client.get(f"/v1/tickets/{one}").json()["state"] for one in ids]


def each_was_answered_once(place: Town, directory: Path, ids: list[str]) -> None:
    """One answer in the store, and on the topic of replies that one only, however often it was told."""
    until(
        lambda: all(state in ENDED for state in states(place, ids)),
        lambda: f"not answered: {states(place, ids)}",
        60,
    )
    told: dict[str, set[str]] = {}

    def all_told() -> bool:
        told.clear()
        for one in place.broker.read(place.kafka.replies):
            reply = decode(message.Reply, one.body)
            assert reply.answer is not None
            told.setdefault(reply.ticket_id, set()).add(reply.answer.text)
        return set(ids) <= set(told)

    until(all_told, "not all replies were told")
    with place.http() as client:
        for one in ids:
            assert told[one] == {client.get(f"/v1/tickets/{one}").json()["answer"]["text"]}
    with closing(sqlite3.connect(directory / "gateway.db")) as database:
        twice = "select request_id from answers group by tenant, request_id having count(*) > 1"
        assert database.execute(twice).fetchall() == []


def test_triton_is_killed_while_it_answers(place: tuple[Town, Path]) -> None:
    here, directory = place
    ids = under_way(here, 6, "手机黑屏怎么办？")
    stream = Stream(here, "我的手机打不开", 2000)
    here.triton.end(signal.SIGKILL)
    stream.end()
    assert stream.finish_reasons == [], "what broke off must not look whole"
    assert "error" in stream.events[-1]

    def refused() -> httpx.Response:
        with here.http() as client:
            return client.post("/v1/chat/completions", json=asked("在吗？", 5))

    reply = refused()
    assert reply.status_code == 503
    assert int(reply.headers["Retry-After"]) > 0
    with here.http() as client:
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        late = client.post("/v1/tickets", json=asked("现在呢？"))  # accepted all the same: it waits
    assert late.status_code == 202
    here.triton.start()
    until(lambda: answers(f"{here.url}/readyz"), "the gateway does not notice that Triton is back")
    assert refused().status_code == 200
    each_was_answered_once(here, directory, [*ids, late.json()["ticket_id"]])


def test_triton_is_told_to_end_while_it_answers(place: tuple[Town, Path]) -> None:
    here, directory = place
    ids = under_way(here, 4, "屏幕碎了")
    stream = Stream(here, "手机很烫", 300)
    ended: list[int] = []
    ending = threading.Thread(target=lambda: ended.append(here.triton.end(signal.SIGTERM)))
    ending.start()
    time.sleep(0.3)
    with here.http() as client:
        reply = client.post("/v1/chat/completions", json=asked("在吗？", 5))
    assert reply.status_code == 503
    assert reply.headers["Retry-After"]
    stream.end()
    ending.join(60)
    assert stream.finish_reasons == ["length"], "an answer under way is finished"
    assert stream.done
    assert ended == [0]
    here.triton.start()
    # It tries again every two seconds at most; whoever asks before is told to come again.
    until(lambda: answers(f"{here.url}/readyz"), "the gateway does not notice that Triton is back")
    each_was_answered_once(here, directory, ids)


def test_valkey_is_killed_while_questions_wait_for_one_answer(place: tuple[Town, Path]) -> None:
    """Questions that are equal wait for the first of them through Valkey. Without it, each goes to the model."""
    here, directory = place
    replies: list[httpx.Response] = []

    def ask() -> None:
        with here.http() as client:
            replies.append(client.post("/v1/chat/completions", json=asked("电池鼓包怎么办？", 300)))

    people = [threading.Thread(target=ask) for _ in range(4)]
    ids = submitted(here, 3, "没有声音")
    for person in people:
        person.start()
    time.sleep(0.5)
    here.valkey.end(signal.SIGKILL)
    for person in people:
        person.join(60)
        assert not person.is_alive(), "a question waits for a cache that is gone"
    assert [reply.status_code for reply in replies] == [200] * 4
    with here.http() as client:
        assert client.post("/v1/chat/completions", json=asked("耳机孔坏了", 5)).status_code == 200
    each_was_answered_once(here, directory, ids)
    here.valkey.start()
    with here.http() as client:
        assert client.post("/v1/chat/completions", json=asked("摄像头坏了", 5)).status_code == 200


def test_what_customers_think_and_who_waits_is_told_to_the_broker(place: tuple[Town, Path]) -> None:
    """While all is well, as a measure of the outages: ratings and hand-offs reach their topics, once and without content."""
    here, _ = place
    with here.http() as client:
        said = client.post("/v1/chat/completions", json=asked("转人工，geheim", 5)).json()["customer_service"]
        rated = {"request_id": said["request_id"], "rating": 2, "comment": "zu langsam"}
        assert client.post("/v1/feedback", json=rated).status_code == 201

    def of(topic: str) -> list[dict[str, Any]]:
        told = [json.loads(one.body) for one in here.broker.read(topic)]
        return [one for one in told if said["request_id"] in json.dumps(one)]

    until(lambda: bool(of(here.kafka.feedback)) and bool(of(here.kafka.handoff)), "nothing was told", 20)
    (feedback,), (handoff,) = of(here.kafka.feedback), of(here.kafka.handoff)
    assert "2" in json.dumps(feedback)
    assert said["handoff"]["handoff_id"] in json.dumps(handoff)
