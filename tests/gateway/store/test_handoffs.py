"""Hand-offs: one for a request, one agent for a hand-off."""

from __future__ import annotations

import pytest

from gateway.errors import Conflict, NotFound
from gateway.records import Feedback
from gateway.store import Store
from tests.gateway.store.conftest import answered, asked, handed, ref


def test_a_hand_off_comes_back_as_it_was_and_once(store: Store) -> None:
    first = store.open_handoff(handed("h1", "r", ref("a" * 32), conversation_id="c"))
    assert store.open_handoff(handed("h2", "r")) == first
    assert store.handoff("shop", "h1") == first
    assert store.handoffs("shop") == [first]


def test_taking_over_answering_closing(store: Store) -> None:
    store.open_handoff(handed("h1", "r1"))
    store.open_handoff(handed("h2", "r2", created_s=2000.0))
    assert store.claim("shop", "h1", "李").agent == "李"
    assert store.claim("shop", "h1", "李").state == "claimed"  # again changes nothing
    with pytest.raises(Conflict, match="claimed by 李"):
        store.claim("shop", "h1", "Ann")
    with pytest.raises(Conflict):
        store.reply("shop", "h1", "Ann", "mine")
    with pytest.raises(Conflict, match="open"):
        store.reply("shop", "h2", "Ann", "not claimed")
    store.reply("shop", "h1", "李", "请寄回维修。")
    replied = store.reply("shop", "h1", "李", "Thank you.")
    assert [(who, words) for _, who, words in replied.replies] == [
        ("李", "请寄回维修。"),
        ("李", "Thank you."),
    ]
    assert replied.replies[0][0] <= replied.replies[1][0]
    assert [one.handoff_id for one in store.handoffs("shop", "open")] == ["h2"]
    assert store.handoffs("shop", "claimed") == [replied]
    assert store.close_handoff("shop", "h1").state == "closed"
    assert store.close_handoff("shop", "h1").replies == replied.replies
    with pytest.raises(Conflict):
        store.claim("shop", "h1", "Ann")
    with pytest.raises(Conflict):
        store.reply("shop", "h1", "李", "too late")
    assert [one.replies for one in store.handoffs("shop")] == [replied.replies, ()]
    assert len(store.handoffs("shop", limit=1)) == 1


def test_a_conversation_is_one_case_until_it_is_closed(store: Store) -> None:
    first = store.open_handoff(handed("h1", "r1", ref("a" * 32), conversation_id="c"))
    again = store.open_handoff(handed("h2", "r2", ref("a" * 32), ref("b" * 32), conversation_id="c"))
    assert (again.handoff_id, again.media) == ("h1", (*first.media, ref("b" * 32)))
    assert store.media("shop", "b" * 32) == ref("b" * 32)
    assert len(store.handoffs("shop")) == 1
    assert store.open_handoff(handed("h3", "r3", conversation_id="another")).handoff_id == "h3"
    assert store.open_handoff(handed("h4", "r4", tenant="bank", conversation_id="c")).handoff_id == "h4"
    store.claim("shop", "h1", "李")
    store.reply("shop", "h1", "李", "您好")
    joined = store.open_handoff(handed("h5", "r5", ref("c" * 32), conversation_id="c"))
    assert (joined.handoff_id, joined.agent, len(joined.replies), len(joined.media)) == ("h1", "李", 1, 3)
    store.close_handoff("shop", "h1")
    assert store.open_handoff(handed("h6", "r6", conversation_id="c")).handoff_id == "h6"
    going = {ref.object_id for _, ref in store.forget("shop", "c")}
    assert going == {"a" * 32, "b" * 32, "c" * 32}


def test_attended_is_a_conversation_that_an_agent_has(store: Store) -> None:
    store.open_handoff(handed("h1", "r1", conversation_id="c"))
    store.open_handoff(handed("h2", "r2"))
    assert not store.attended("shop", "c")
    store.claim("shop", "h1", "李")
    store.claim("shop", "h2", "李")
    assert store.attended("shop", "c")
    assert not store.attended("bank", "c")
    assert not store.attended("shop", "")
    store.close_handoff("shop", "h1")
    assert not store.attended("shop", "c")


def test_feedback_needs_an_answer(store: Store) -> None:
    judged = Feedback("r", "shop", 5, "很好", 2000.0)
    with pytest.raises(NotFound):
        store.add_feedback(judged)
    store.save_answer(asked("r"), answered("r"))
    store.add_feedback(judged)
    store.add_feedback(Feedback("r", "shop", 1, "changed my mind", 3000.0))
    assert [one.rating for one in store.feedback("shop")] == [5, 1]
    assert store.feedback("shop", 2500.0)[0].comment == "changed my mind"
    assert store.feedback(None) == store.feedback("shop")
