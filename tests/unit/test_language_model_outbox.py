"""What leaves the language model: the first token and the end at once, the tokens between them joined, nothing lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ensemble.errors import EngineFailure
from ensemble.language_model.outbox import Outbox, joined
from ensemble.language_model.request import Output

LONG_S = 60.0
"""An interval that no test waits for."""


class Line:
    """Remembers what was sent to whom; may be held up, and breaks for the sender "broken"."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Output]] = []
        self.open = threading.Event()
        self.open.set()

    def send(self, sender: str, output: Output) -> None:
        self.open.wait(10)
        if sender == "broken":
            raise RuntimeError("nobody is there")
        self.sent.append((sender, output))

    def tokens(self, sender: str) -> list[tuple[int, ...]]:
        return [output.token_ids for to, output in self.sent if to == sender]

    def wait(self, count: int) -> None:
        end = time.monotonic() + 10
        while len(self.sent) < count:
            assert time.monotonic() < end, f"{len(self.sent)} of {count} messages"
            time.sleep(0.001)

    def wait_for_the_end(self, streams: int = 1) -> None:
        end = time.monotonic() + 10
        while sum(output.finished for _, output in list(self.sent)) < streams:
            assert time.monotonic() < end, f"not {streams} ended streams"
            time.sleep(0.001)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def start(line: Line) -> Iterator[Callable[[float], Outbox]]:
    started: list[Outbox] = []

    def made(interval_s: float) -> Outbox:
        started.append(Outbox(line.send, interval_s))
        return started[-1]

    yield made
    line.open.set()
    for outbox in started:
        outbox.close()


def token(number: int, **more: object) -> Output:
    return Output(token_ids=(number,), log_probs=(-number / 10,), num_input_tokens=7, **more)  # type: ignore[arg-type]


def test_the_first_token_and_the_end_do_not_wait(line: Line, start: Callable[[float], Outbox]) -> None:
    put = start(LONG_S).for_sender("a")
    put(token(1))
    line.wait(1)
    for number in (2, 3, 4):
        put(token(number))
    put(token(5, finished=True, finish_reason="stop"))
    line.wait(2)
    assert line.tokens("a") == [(1,), (2, 3, 4, 5)]
    last = line.sent[-1][1]
    assert last.finished
    assert last.finish_reason == "stop"
    assert last.log_probs == (-0.2, -0.3, -0.4, -0.5)
    assert last.num_input_tokens == 7


def test_tokens_between_go_out_when_their_time_has_come(line: Line, start: Callable[[float], Outbox]) -> None:
    put = start(0.05).for_sender("a")
    put(token(1))
    line.wait(1)
    begun_s = time.monotonic()
    put(token(2))
    put(token(3))
    line.wait(2)
    assert time.monotonic() - begun_s >= 0.03
    assert line.tokens("a") == [(1,), (2, 3)]


def test_streams_do_not_wait_for_each_other(line: Line, start: Callable[[float], Outbox]) -> None:
    outbox = start(LONG_S)
    first, second = outbox.for_sender("a"), outbox.for_sender("b")
    first(token(1))
    line.wait(1)
    first(token(2))
    second(token(9))
    line.wait(2)
    assert line.tokens("b") == [(9,)]
    assert line.tokens("a") == [(1,)]


def test_two_requests_of_one_sender_are_two_streams(line: Line, start: Callable[[float], Outbox]) -> None:
    outbox = start(LONG_S)
    outbox.for_sender("a")(token(1, finished=True))
    outbox.for_sender("a")(token(2))
    line.wait(2)
    assert line.tokens("a") == [(1,), (2,)]


def test_what_piles_up_behind_a_slow_line_is_joined(line: Line, start: Callable[[float], Outbox]) -> None:
    put = start(0.0).for_sender("a")
    line.open.clear()
    for number in range(1, 101):
        put(token(number, finished=number == 100))
    line.open.set()
    line.wait_for_the_end()
    assert [number for tokens in line.tokens("a") for number in tokens] == list(range(1, 101))
    assert len(line.sent) <= 2


def test_tokens_before_an_error_are_sent_before_it(line: Line, start: Callable[[float], Outbox]) -> None:
    put = start(LONG_S).for_sender("a")
    put(token(1))
    line.wait(1)
    put(token(2))
    put(Output(finished=True, error=EngineFailure("broken")))
    line.wait(3)
    assert line.tokens("a") == [(1,), (2,), ()]
    assert [output.finished for _, output in line.sent] == [False, False, True]


def test_closing_sends_what_waits(line: Line) -> None:
    outbox = Outbox(line.send, LONG_S)
    put = outbox.for_sender("a")
    put(token(1))
    line.wait(1)
    put(token(2))
    outbox.close()
    assert line.tokens("a") == [(1,), (2,)]


def test_a_sender_that_fails_does_not_end_the_others(line: Line, start: Callable[[float], Outbox]) -> None:
    outbox = start(0.0)
    outbox.for_sender("broken")(token(1))
    outbox.for_sender("a")(token(2))
    line.wait(1)
    assert line.tokens("a") == [(2,)]


def test_many_streams_lose_and_reorder_nothing(line: Line, start: Callable[[float], Outbox]) -> None:
    outbox = start(0.001)
    puts = {str(name): outbox.for_sender(str(name)) for name in range(20)}
    for number in range(1, 201):
        for put in puts.values():
            put(token(number, finished=number == 200))
    line.wait_for_the_end(streams=20)
    for name in puts:
        assert [number for tokens in line.tokens(name) for number in tokens] == list(range(1, 201))


def test_one_output_is_left_as_it_is() -> None:
    output = token(3)
    assert joined([output]) == [output]


def test_facts_that_only_one_output_tells_are_kept() -> None:
    first = Output(token_ids=(1,), num_input_tokens=7, reused_blocks=2)
    (made,) = joined([first, Output(token_ids=(2,), finished=True, finish_reason="stop")])
    assert made == Output((1, 2), (), True, "stop", None, 7, 2)
