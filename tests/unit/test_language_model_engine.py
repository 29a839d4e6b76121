"""The engine as its callers use it: threads, callbacks, cancel, drain, close, and faults."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ensemble.errors import Draining, EngineFailure, PromptTooLong, RequestError
from ensemble.language_model.batcher import Batcher
from ensemble.language_model.engine import Engine
from ensemble.language_model.request import Output, Request, Sampling
from tests import fakes


class GatedModel(fakes.FakeLanguageModel):
    """A fake whose steps wait for `gate`."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__(num_blocks)
        self.gate = threading.Event()

    def forward(self, batch: Any) -> Any:
        assert self.gate.wait(10)
        return super().forward(batch)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(fakes.FakeLanguageModel(64), fakes.manifest())
    yield engine
    engine.close()


class Consumer:
    """Collects the outputs of one request."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self.outputs: queue.SimpleQueue[Output] = queue.SimpleQueue()
        self.request = request
        engine.submit(request, self.outputs.put)

    def first(self) -> Output:
        return self.outputs.get(timeout=10)

    def wait(self) -> tuple[list[int], Output]:
        """All tokens, and the last Output."""
        tokens: list[int] = []
        while True:
            output = self.first()
            tokens += output.token_ids
            if output.finished:
                return tokens, output


def test_tokens_come_one_by_one_and_the_last_output_says_why_it_ended(engine: Engine) -> None:
    consumer = Consumer(engine, fakes.request("a", [30, (1, 8)], max_new_tokens=5, end_ids=()))
    outputs = [consumer.first() for _ in range(5)]
    assert [o.finished for o in outputs] == [False] * 4 + [True]
    assert [t for o in outputs for t in o.token_ids] == fakes.answer_alone(consumer.request)
    assert outputs[-1].finish_reason == "length"
    assert outputs[0].num_input_tokens == 38


def test_when_the_last_output_arrives_the_counters_are_back_at_zero(engine: Engine) -> None:
    Consumer(engine, fakes.request("a", [100])).wait()
    counters = engine.counters
    assert (counters.kv_blocks_in_use, counters.active_sequences, counters.waiting_sequences) == (0, 0, 0)
    assert counters.kv_blocks == 64
    assert counters.kv_blocks_cached > 0


def test_a_cancelled_request_ends_as_cancelled_and_the_id_is_free_again(engine: Engine) -> None:
    consumer = Consumer(engine, fakes.request("a", [30], max_new_tokens=280, end_ids=()))
    consumer.first()
    engine.cancel("a")
    tokens, last = consumer.wait()
    assert (last.finish_reason, last.error) == ("cancelled", None)
    assert len(tokens) < 279
    again = Consumer(engine, fakes.request("a", [30], max_new_tokens=2, end_ids=()))
    assert again.wait()[1].finish_reason == "length"


def test_a_cancel_without_its_request_is_harmless(engine: Engine) -> None:
    engine.cancel("nobody")
    consumer = Consumer(engine, fakes.request("nobody", [5]))
    assert consumer.wait()[0] == fakes.answer_alone(consumer.request)
    engine.cancel("nobody")


def test_an_id_in_flight_is_refused() -> None:
    model = GatedModel(64)
    engine = Engine(model, fakes.manifest())
    consumer = Consumer(engine, fakes.request("a", [5]))
    with pytest.raises(RequestError, match="in flight"):
        Consumer(engine, fakes.request("a", [6]))
    model.gate.set()
    assert consumer.wait()[0] == fakes.answer_alone(consumer.request)
    engine.close()


def test_a_request_that_can_never_fit_is_refused_at_once_and_leaves_no_trace() -> None:
    engine = Engine(fakes.FakeLanguageModel(2), fakes.manifest())
    for _ in range(2):
        with pytest.raises(PromptTooLong):
            Consumer(engine, fakes.request("a", [100]))
    assert engine.drain(0)
    engine.close()


def test_drain_refuses_new_requests_and_waits_for_those_in_flight() -> None:
    model = GatedModel(64)
    engine = Engine(model, fakes.manifest())
    consumer = Consumer(engine, fakes.request("a", [5]))
    assert not engine.drain(timeout_s=0.05)
    with pytest.raises(Draining):
        Consumer(engine, fakes.request("b", [5]))
    model.gate.set()
    assert engine.drain(timeout_s=10)
    assert consumer.wait()[0] == fakes.answer_alone(consumer.request)
    engine.close()


def test_close_ends_requests_in_flight_with_draining() -> None:
    model = GatedModel(64)
    engine = Engine(model, fakes.manifest(max_batch_size=1))
    consumers = [Consumer(engine, fakes.request(n, [5], max_new_tokens=300, end_ids=())) for n in "ab"]
    closing = threading.Thread(target=engine.close)
    closing.start()
    model.gate.set()
    closing.join(10)
    assert [type(c.wait()[1].error) for c in consumers] == [Draining, Draining]
    assert engine.counters.kv_blocks_in_use == 0


def test_a_step_that_raises_fails_its_requests_and_the_engine_goes_on() -> None:
    model = GatedModel(64)
    engine = Engine(model, fakes.manifest())
    lost = Consumer(engine, fakes.request("lost", [5]))
    model.fail_next = RuntimeError("broken")
    model.gate.set()
    error = lost.wait()[1].error
    assert isinstance(error, EngineFailure)
    assert "lost" in str(error)
    good = Consumer(engine, fakes.request("good", [5]))
    assert good.wait()[0] == fakes.answer_alone(good.request)
    engine.close()


def test_a_bug_in_the_batcher_loses_its_requests_and_the_engine_starts_over(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Batcher) -> None:
        raise KeyError("bug")

    with monkeypatch.context() as patch:
        patch.setattr(Batcher, "step", broken)
        assert isinstance(Consumer(engine, fakes.request("a", [50])).wait()[1].error, EngineFailure)
    good = Consumer(engine, fakes.request("a", [50]))
    assert good.wait()[0] == fakes.answer_alone(good.request)


def test_a_consumer_that_raises_is_cancelled_and_disturbs_nobody(engine: Engine) -> None:
    def broken(output: Output) -> None:
        raise ValueError("consumer")

    engine.submit(fakes.request("broken", [5], max_new_tokens=300, end_ids=()), broken)
    good = Consumer(engine, fakes.request("good", [6]))
    assert good.wait()[0] == fakes.answer_alone(good.request)
    assert engine.drain(timeout_s=10)
    assert engine.counters.generated_tokens < 300


def test_a_seed_gives_the_same_answer_alone_and_in_any_company(engine: Engine) -> None:
    sampling = Sampling(top_k=0, temperature=1.0, top_p=0.9, seed=42)
    alone, _ = Consumer(engine, fakes.request("a", [40], 60, sampling, end_ids=())).wait()
    others = [Consumer(engine, fakes.request(f"o{i}", [20 + i], 60)) for i in range(7)]
    again, _ = Consumer(engine, fakes.request("b", [40], 60, sampling, end_ids=())).wait()
    assert alone == again
    for other in others:
        other.wait()


def test_a_thousand_requests_from_four_threads_all_get_their_own_answers() -> None:
    engine = Engine(fakes.FakeLanguageModel(24), fakes.manifest(max_batch_size=8, max_num_tokens=128))
    wrong: list[str] = []

    def one_client(client: int) -> None:
        choice = random.Random(client)
        for i in range(250):
            parts = choice.choices([4, 33, (1, 5), (2, 5), (3, 40)], k=choice.randint(1, 2))
            request = fakes.request(f"{client}-{i}", parts, choice.randint(1, 24))
            consumer = Consumer(engine, request)
            if choice.random() < 1 / 3:
                consumer.first()
                engine.cancel(request.request_id)
                continue
            tokens, last = consumer.wait()
            if tokens != fakes.answer_alone(request) or last.error:
                wrong.append(request.request_id)

    clients = [threading.Thread(target=one_client, args=(c,)) for c in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert wrong == []
    assert engine.drain(timeout_s=10)
    counters = engine.counters
    assert (counters.kv_blocks_in_use, counters.active_sequences, counters.waiting_sequences) == (0, 0, 0)
    assert counters.reused_blocks > 0
    engine.close()
    assert not any(thread.name == "language-model" for thread in threading.enumerate())
