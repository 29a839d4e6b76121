"""Many threads and processes at once: nothing lost, nothing twice, nobody refused."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue
from threading import Barrier
from typing import TYPE_CHECKING, TypeVar

import pytest

from gateway.errors import Conflict
from gateway.store import Store
from tests.gateway.store.conftest import answered, asked, handed, ref

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier as ProcessBarrier

THREADS = 8
SPAWN = multiprocessing.get_context("spawn")

T = TypeVar("T")


def at_once(work: Callable[[int], T]) -> list[T]:
    barrier = Barrier(THREADS)

    def one(number: int) -> T:
        barrier.wait(10)
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(THREADS)))


def test_one_request_makes_one_ticket(store: Store) -> None:
    for turn in range(5):
        tickets = at_once(
            lambda number, turn=turn: store.create_ticket(asked(f"r{turn}", ref(f"{number:032x}")))
        )  # type: ignore[misc]
        assert len({ticket.ticket_id for ticket in tickets}) == 1
        assert len({ticket.question for ticket in tickets}) == 1
    assert len(store.unpublished(100)) == 5


def test_one_answer_wins(store: Store) -> None:
    ticket_id = store.create_ticket(asked("r")).ticket_id
    won = at_once(lambda n: store.finish_ticket(ticket_id, answered("r", f"answer {n}"), "answered"))
    assert won.count(True) == 1
    winner = f"answer {won.index(True)}"
    ticket = store.ticket("shop", ticket_id)
    assert ticket.answer is not None
    assert ticket.answer.text == store.answer("shop", "r").text == winner


def test_a_ticket_and_a_chat_with_one_request_id_both_end(store: Store) -> None:
    ticket_id = store.create_ticket(asked("r")).ticket_id

    def work(number: int) -> bool:
        if number % 2:
            return store.finish_ticket(ticket_id, answered("r", f"answer {number}"), "answered")
        store.save_answer(asked("r"), answered("r", f"answer {number}"))
        return False

    assert at_once(work).count(True) == 1
    assert store.answer("shop", "r").text.startswith("answer ")


def test_one_agent_gets_a_hand_off(store: Store) -> None:
    opened = at_once(lambda n: store.open_handoff(handed(f"h{n}", "r")))
    assert len({one.handoff_id for one in opened}) == 1

    def claim(number: int) -> str:
        try:
            return store.claim("shop", opened[0].handoff_id, f"agent-{number}").agent
        except Conflict:
            return ""

    claimed = [agent for agent in at_once(claim) if agent]
    assert claimed == [store.handoff("shop", opened[0].handoff_id).agent]


def test_no_attempt_is_lost(store: Store) -> None:
    ticket_id = store.create_ticket(asked("r")).ticket_id
    at_once(lambda _: [store.start_ticket(ticket_id) for _ in range(5)])
    assert store.ticket("shop", ticket_id).attempts == THREADS * 5


def test_nothing_is_replied_after_the_end(store: Store) -> None:
    for turn in range(5):
        handoff_id = store.open_handoff(handed(f"h{turn}", f"r{turn}")).handoff_id
        store.claim("shop", handoff_id, "李")
        after: list[int] = []

        def work(number: int, handoff_id: str = handoff_id, after: list[int] = after) -> None:
            if number == 0:
                after.append(len(store.close_handoff("shop", handoff_id).replies))
                return
            try:
                store.reply("shop", handoff_id, "李", f"{number}")
            except Conflict:
                return

        at_once(work)
        assert len(store.handoff("shop", handoff_id).replies) == after[0]


def works(url: str, barrier: ProcessBarrier, told: Queue[tuple[int, int, str]]) -> None:
    """A process that starts with the others on a new database, then makes and answers the same tickets as they."""
    try:
        barrier.wait(60)
        store = Store(url)
        won = 0
        for number in range(25):
            ticket = store.create_ticket(asked(f"r{number}", ref(f"{number:032x}")))
            store.start_ticket(ticket.ticket_id)
            won += store.finish_ticket(ticket.ticket_id, answered(f"r{number}"), "answered")
        left = len(store.unpublished(100))
        store.close()
        told.put((won, left, ""))
    except Exception as error:
        told.put((0, 0, repr(error)))


@pytest.mark.parametrize("turn", range(2))
def test_processes_start_on_a_new_database_and_share_it(url: str, turn: int) -> None:
    count = 4
    barrier = SPAWN.Barrier(count)
    told: Queue[tuple[int, int, str]] = SPAWN.Queue()
    processes = [SPAWN.Process(target=works, args=(url, barrier, told)) for _ in range(count)]
    for process in processes:
        process.start()
    results = [told.get(timeout=90) for _ in processes]
    for process in processes:
        process.join(30)
    assert [error for _, _, error in results if error] == []
    assert sum(won for won, _, _ in results) == 25
    assert [left for _, left, _ in results] == [0] * count
