"""What is forgotten is gone whole, what stays stays whole, and media go with the last row that refers to them."""

from __future__ import annotations

import time
from unittest import mock

import pytest

from gateway.errors import NotFound
from gateway.records import Feedback
from gateway.store import Store
from tests.gateway.store.conftest import answered, asked, handed, ref, rows

A, B, C = (ref(letter * 32) for letter in "abc")
OLD_S, CUT_S, NEW_S = 1000.0, 1500.0, 2000.0


def made(store: Store, at_s: float, request_id: str, *media: object, conversation_id: str = "") -> None:
    """An answered ticket of that time."""
    with mock.patch("time.time", return_value=at_s):
        ticket = store.create_ticket(asked(request_id, *media, conversation_id=conversation_id))  # type: ignore[arg-type]
        store.finish_ticket(ticket.ticket_id, answered(request_id), "answered")


def test_purge_deletes_what_is_old_with_its_media(store: Store) -> None:
    made(store, OLD_S, "old", A)
    made(store, NEW_S, "new", B)
    assert store.purge(CUT_S) == [("shop", A)]
    assert store.purge(CUT_S) == []
    with pytest.raises(NotFound):
        store.answer("shop", "old")
    assert store.answer("shop", "new")
    assert store.media("shop", B.object_id) == B
    assert store.media("shop", A.object_id) is None


def test_media_stay_while_a_newer_row_refers_to_them(store: Store) -> None:
    made(store, OLD_S, "old", A, B)
    made(store, NEW_S, "new", B)
    store.open_handoff(handed("h", "old", C, created_s=NEW_S))
    assert store.purge(CUT_S) == [("shop", A)]
    assert store.purge(NEW_S + 1) in ([("shop", B), ("shop", C)], [("shop", C), ("shop", B)])


def test_an_object_id_of_two_tenants_is_two_media(store: Store) -> None:
    made(store, OLD_S, "old", A)
    with mock.patch("time.time", return_value=NEW_S):
        store.create_ticket(asked("r", A, tenant="bank"))
    assert store.purge(CUT_S) == [("shop", A)]
    assert store.media("bank", A.object_id) == A


def test_nothing_is_left_of_what_was_purged(store: Store, url: str) -> None:
    made(store, OLD_S, "old", A, conversation_id="c")
    store.open_handoff(handed("h", "old", A, conversation_id="c", created_s=OLD_S))
    store.claim("shop", "h", "李")
    store.reply("shop", "h", "李", "later than the cut")
    store.add_feedback(Feedback("old", "shop", 4, "later than the cut", NEW_S))
    assert store.purge(CUT_S) == [("shop", A)]
    assert {name: count for name, count in rows(url).items() if count} == {"schema": 1}


def test_forgetting_a_conversation_leaves_the_others(store: Store, url: str) -> None:
    for number, conversation in enumerate(("c", "d")):
        made(store, NEW_S, f"r{number}", (A, B)[number], C, conversation_id=conversation)
        store.open_handoff(handed(f"h{number}", f"r{number}", C, conversation_id=conversation))
        store.claim("shop", f"h{number}", "李")
        store.reply("shop", f"h{number}", "李", "words")
        store.add_feedback(Feedback(f"r{number}", "shop", 4, "", NEW_S))
    before = rows(url)
    assert store.forget("shop", "c") == [("shop", A)]
    after = rows(url)
    assert all(after[name] * 2 == before[name] for name in before if name != "schema")
    assert len(store.conversation("shop", "d")) == 2
    assert store.handoff("shop", "h1").replies
    with pytest.raises(NotFound):
        store.forget("shop", "c")


def test_a_forgotten_ticket_is_not_answered(store: Store, url: str) -> None:
    ticket = store.create_ticket(asked("r", A, conversation_id="c"))
    assert store.start_ticket(ticket.ticket_id) is not None
    assert store.forget("shop", "c") == [("shop", A)]
    assert not store.finish_ticket(ticket.ticket_id, answered("r"), "answered")
    with pytest.raises(NotFound):
        store.start_ticket(ticket.ticket_id)
    assert {name: count for name, count in rows(url).items() if count} == {"schema": 1}


def test_looking_for_a_medium_and_forgetting_do_not_read_all_rows(store: Store) -> None:
    for number in range(400):
        store.create_ticket(asked(f"r{number}", ref(f"{number:032x}"), conversation_id=f"c{number}"))
    start_s = time.perf_counter()
    for number in range(50):
        assert store.media("shop", f"{number:032x}") is not None
        assert len(store.forget("shop", f"c{number}")) == 1
    each_ms = (time.perf_counter() - start_s) * 1000 / 50
    assert each_ms < 100


def test_what_comes_into_a_conversation_that_is_being_deleted_goes_too(store: Store) -> None:
    """A hand-off is written after its answer; the customer may have the conversation deleted in between."""
    made(store, NEW_S, "r1", A, conversation_id="c")
    assert store.still_forgotten("shop", "c") is None
    assert store.forget("shop", "c") == [("shop", A)]
    store.open_handoff(handed("h1", "r1", A, B, conversation_id="c"))
    gone = store.still_forgotten("shop", "c")
    assert gone is not None
    assert set(gone) == {("shop", A), ("shop", B)}
    assert store.handoffs("shop") == []
    assert store.media("shop", A.object_id) is None
    assert store.still_forgotten("shop", "c") == []
    assert store.still_forgotten("shop", "") is None
