"""Two tenants with the same ids everywhere: neither reads, changes or deletes what is the other's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.errors import NotFound
from gateway.records import Feedback
from gateway.store import Store
from tests.gateway.store.conftest import answered, asked, handed, ref, rows

PICTURE = ref("a" * 32)


@pytest.fixture
def ticket_id(store: Store) -> str:
    """All that "shop" has; "bank" has nothing."""
    ticket = store.create_ticket(asked("r", PICTURE, conversation_id="c"))
    store.finish_ticket(ticket.ticket_id, answered("r"), "handed_off")
    store.add_feedback(Feedback("r", "shop", 1, "secret", 1000.0))
    store.open_handoff(handed("h", "r", PICTURE, conversation_id="c"))
    store.claim("shop", "h", "李")
    store.reply("shop", "h", "李", "secret")
    return ticket.ticket_id


REACHES: dict[str, Callable[[Store, str], object]] = {
    "ticket": lambda store, ticket_id: store.ticket("bank", ticket_id),
    "answer": lambda store, _: store.answer("bank", "r"),
    "asked": lambda store, _: store.asked("bank", "r"),
    "conversation": lambda store, _: store.conversation("bank", "c"),
    "feedback": lambda store, _: store.add_feedback(Feedback("r", "bank", 1, "", 1.0)),
    "handoff": lambda store, _: store.handoff("bank", "h"),
    "claim": lambda store, _: store.claim("bank", "h", "李"),
    "reply": lambda store, _: store.reply("bank", "h", "李", "to another's customer"),
    "close": lambda store, _: store.close_handoff("bank", "h"),
    "forget": lambda store, _: store.forget("bank", "c"),
}


@pytest.mark.parametrize("name", REACHES)
def test_another_tenant_finds_nothing_and_changes_nothing(
    store: Store, url: str, ticket_id: str, name: str
) -> None:
    def all_there() -> tuple[object, ...]:
        return store.ticket("shop", ticket_id), store.handoffs("shop"), store.feedback("shop"), rows(url)

    before = all_there()
    with pytest.raises(NotFound) as caught:
        REACHES[name](store, ticket_id)
    assert "secret" not in str(caught.value)
    assert "shop" not in str(caught.value)
    assert all_there() == before


def test_lists_of_another_tenant_are_empty(store: Store, ticket_id: str) -> None:
    assert store.handoffs("bank") == store.feedback("bank") == []
    assert store.media("bank", PICTURE.object_id) is None
    assert store.media("shop", PICTURE.object_id) == PICTURE


def test_the_same_ids_are_two_things(store: Store, ticket_id: str) -> None:
    other = store.create_ticket(asked("r", words="bank", tenant="bank", conversation_id="c"))
    assert other.ticket_id != ticket_id
    store.finish_ticket(other.ticket_id, answered("r", "bank"), "answered")
    assert (
        store.open_handoff(handed("h-bank", "r", tenant="bank", conversation_id="c")).handoff_id == "h-bank"
    )
    assert store.answer("shop", "r").text != store.answer("bank", "r").text == "bank"
    assert len(store.conversation("bank", "c")) == len(store.conversation("shop", "c")) == 2
    store.forget("bank", "c")
    assert store.ticket("shop", ticket_id).answer == store.answer("shop", "r")
    assert store.handoff("shop", "h").replies
    assert store.feedback("shop")
    with pytest.raises(NotFound):
        store.answer("bank", "r")
