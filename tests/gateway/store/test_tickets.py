"""Tickets and answers: kept whole, once, and published until the queue has them."""

from __future__ import annotations

import time

import pytest

from gateway.errors import NotFound
from gateway.records import Message
from gateway.store import Store
from tests.gateway.store.conftest import answered, asked, ref


def test_a_ticket_comes_back_as_it_was(store: Store) -> None:
    made = store.create_ticket(asked("r", ref("a" * 32), words="Screen “black” \x00 👩‍🔧 黑屏"))
    assert store.ticket("shop", made.ticket_id) == made
    assert (made.state, made.attempts, made.answer) == ("queued", 0, None)


def test_the_same_request_is_the_same_ticket(store: Store) -> None:
    first = store.create_ticket(asked("r", words="one"))
    assert store.create_ticket(asked("r", words="two")) == first
    assert store.create_ticket(asked("r2")).ticket_id != first.ticket_id


def test_a_ticket_is_answered_once(store: Store) -> None:
    ticket_id = store.create_ticket(asked("r", conversation_id="c")).ticket_id
    for attempts in (1, 2):
        started = store.start_ticket(ticket_id)
        assert started is not None
        assert (started.state, started.attempts) == ("working", attempts)
    assert store.finish_ticket(ticket_id, answered("r", "first"), "answered")
    assert not store.finish_ticket(ticket_id, answered("r", "second"), "handed_off")
    assert store.start_ticket(ticket_id) is None
    ticket = store.ticket("shop", ticket_id)
    assert (ticket.state, ticket.attempts) == ("answered", 2)
    assert ticket.answer == answered("r", "first") == store.answer("shop", "r")
    assert store.asked("shop", "r") == ticket.question


def test_unknown_tickets(store: Store) -> None:
    with pytest.raises(NotFound):
        store.start_ticket("ticket-none")
    assert not store.finish_ticket("ticket-none", answered(), "answered")
    with pytest.raises(NotFound):
        store.answer("shop", "none")


def test_of_two_answers_the_first_stays(store: Store) -> None:
    store.save_answer(asked("r"), answered("r", "first"))
    store.save_answer(asked("r", words="other"), answered("r", "second"))
    assert store.answer("shop", "r").text == "first"
    assert store.asked("shop", "r").text == "黑屏怎么办？"


def test_unpublished_are_those_that_the_queue_does_not_have(store: Store) -> None:
    one, two, three = (store.create_ticket(asked(f"r{n}")).ticket_id for n in range(3))
    assert [ticket.ticket_id for ticket in store.unpublished(10)] == [one, two, three]
    assert [ticket.ticket_id for ticket in store.unpublished(2)] == [one, two]
    assert store.unpublished(10, older_than_s=60) == []
    store.published(one)
    store.finish_ticket(two, answered("r1"), "answered")
    assert [ticket.ticket_id for ticket in store.unpublished(10)] == [three]


def test_what_the_queue_lost_is_published_again_unless_somebody_works_on_it(store: Store) -> None:
    ticket_id = store.create_ticket(asked("r")).ticket_id
    store.published(ticket_id)
    assert store.unpublished(10, stale_s=60) == []
    time.sleep(0.3)
    assert [ticket.ticket_id for ticket in store.unpublished(10, stale_s=0.2)] == [ticket_id]
    store.start_ticket(ticket_id)
    assert store.unpublished(10, stale_s=0.2) == []


def test_a_conversation_is_told_in_order(store: Store) -> None:
    for n in range(3):
        store.save_answer(
            asked(f"r{n}", ref(f"{n}" * 32), words=f"问{n}", conversation_id="c"), answered(f"r{n}", f"答{n}")
        )
    store.save_answer(asked("other", conversation_id="d"), answered("other"))
    expected = [
        message
        for n in range(3)
        for message in (Message("user", (ref(f"{n}" * 32), f"问{n}")), Message("assistant", (f"答{n}",)))
    ]
    assert list(store.conversation("shop", "c")) == expected


def test_questions_without_a_conversation_are_not_one(store: Store) -> None:
    store.save_answer(asked("r1"), answered("r1"))
    store.save_answer(asked("r2"), answered("r2"))
    with pytest.raises(NotFound):
        store.conversation("shop", "")
    with pytest.raises(NotFound):
        store.forget("shop", "")
    assert store.answer("shop", "r1")
    assert store.answer("shop", "r2")


def test_a_new_store_sees_what_an_old_one_kept(store: Store, url: str) -> None:
    ticket = store.create_ticket(asked("r"))
    again = Store(url)
    try:
        assert again.ticket("shop", ticket.ticket_id) == ticket
        assert again.ready()
    finally:
        again.close()
