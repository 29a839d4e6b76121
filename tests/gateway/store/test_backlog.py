"""What waits, counted over all tenants, on each kind of database."""

from __future__ import annotations

import time

from gateway.store import Store
from gateway.store.backlog import Backlog
from tests.gateway.store.conftest import answered, asked, handed


def test_nothing_waits_in_a_new_store(store: Store) -> None:
    assert store.backlog() == Backlog(0, 0.0, 0, 0.0)


def test_tickets_wait_until_they_are_answered(store: Store) -> None:
    first = store.create_ticket(asked("r1", tenant="shop")).ticket_id
    second = store.create_ticket(asked("r2", tenant="bank")).ticket_id
    store.start_ticket(second)
    time.sleep(0.05)
    waiting = store.backlog()
    assert waiting.tickets == 2, "one that is worked on has no answer yet"
    assert 0.05 <= waiting.ticket_age_s < 30
    for ticket in (first, second):
        store.finish_ticket(ticket, answered("r"), "answered")
    assert store.backlog() == Backlog(0, 0.0, 0, 0.0)


def test_hand_offs_wait_until_an_agent_takes_them(store: Store) -> None:
    now_s = time.time()
    store.open_handoff(handed("h1", "r1", created_s=now_s - 500))
    store.open_handoff(handed("h2", "r2", created_s=now_s - 100))
    waiting = store.backlog()
    assert waiting.handoffs == 2
    assert 500 <= waiting.handoff_age_s < 530
    store.claim("shop", "h1", "Ann")
    waiting = store.backlog()
    assert waiting.handoffs == 1
    assert 100 <= waiting.handoff_age_s < 130
    store.close_handoff("shop", "h2")
    assert store.backlog().handoffs == 0
