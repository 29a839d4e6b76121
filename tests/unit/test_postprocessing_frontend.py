"""The public model's logic with an ensemble in memory: streams, ends, cancellation, errors, admission."""

from __future__ import annotations

import itertools
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engine.manifest import Limits, Manifest, TextFacts, TokenIds, VisionFacts
from ensemble import contract
from ensemble.adapters import Adapters
from ensemble.errors import (
    Cancelled,
    Draining,
    EngineFailure,
    InvalidImage,
    InvalidOption,
    Overloaded,
    PromptTooLong,
    ServingError,
)
from ensemble.postprocessing.call import Failure, Tensors
from ensemble.postprocessing.detokenizer import Vocabulary
from ensemble.postprocessing.frontend import Frontend

EOS, SECOND_EOS = 256, 257
VOCABULARY = Vocabulary([*(bytes([i]) for i in range(256)), b"", b""])
MANIFEST = Manifest(
    target="openvino",
    weights="f32",
    checkpoint_hash="c",
    engine_hash="e",
    vision=VisionFacts(16, 2, 2, 3, 32, 2, 2, 64, 16, 2, (0.5,) * 3, (0.5,) * 3, 1 / 255),
    text=TextFacts(258, 16, 2, 2, 1, 8, 1e4, (2, 1, 1), 256),
    tokens=TokenIds((EOS, SECOND_EOS), EOS, 250, 251, 252, 253),
    limits=Limits(4, 200, 256, 64, 100),
    versions={},
    files={},
)
PROMPT_TOKENS = 7
ADAPTERS = Adapters((), Path("/nowhere"))


def generated(ids: list[int], log_prob: float = -0.5, batch: bool = True) -> dict[str, Any]:
    shape = (1, 1, len(ids)) if batch else (1, len(ids))
    return {
        "output_ids": np.array(ids, np.int32).reshape(shape),
        "sequence_length": np.array([[len(ids)]], np.int32),
        "output_log_probs": np.full(shape, log_prob, np.float32),
        "num_input_tokens": np.array([PROMPT_TOKENS], np.int32),
        "kv_cache_reused_blocks": np.array([1], np.int32),
    }


def tokens(text: str) -> list[dict[str, Any]]:
    """One response per byte."""
    return [generated([byte]) for byte in text.encode("utf-8")]


END = generated([EOS])


class MemoryCall:
    """A request whose ensemble plays `script`: responses, Failures, exceptions, or callables to wait for.

    A stop request ends the script; the first `stops_lost` of them arrive too early and are lost. A second inner call
    plays `second`, else `script` again.
    """

    def __init__(
        self,
        script: list[Any] | Iterator[Any],
        stops_lost: int = 0,
        client_id: str = "",
        second: list[Any] | None = None,
        **parameters: Any,
    ) -> None:
        self.request_id = client_id
        self.parameters = parameters
        self.cancelled = False
        self.chunks: list[Tensors] = []
        self.error: ServingError | None = None
        self.ended = threading.Event()
        self.drained = threading.Event()
        self.stopped = threading.Event()
        self.stops = 0
        self.inner_ids: list[str] = []
        self.adapters: list[Tensors] = []
        self.on_send: Callable[[], None] = lambda: None
        self.on_fail: Callable[[], None] = lambda: None
        self.on_stop: Callable[[], None] = lambda: None
        self.on_ask: Callable[[], None] = lambda: None
        self.wrong: list[str] = []
        self._script = script
        self._second = second
        self._stops_lost = stops_lost

    def is_cancelled(self) -> bool:
        if self.ended.is_set():
            self.wrong.append("is_cancelled after the end")
        self.on_ask()
        return self.cancelled

    def send(self, tensors: Tensors, final: bool) -> None:
        if self.ended.is_set():
            self.wrong.append("send after the end")
        self.on_send()
        for name, array in tensors.items():
            declared = contract.CONTRACT[contract.ENTRY].output(name)
            assert array.ndim == len(declared.shape), name
            assert array.dtype == {"STRING": object, "INT32": np.int32, "FP32": np.float32}[declared.dtype], (
                name
            )
        self.chunks.append(tensors)
        if final:
            self.ended.set()

    def fail(self, error: ServingError) -> None:
        if self.ended.is_set():
            self.wrong.append("fail after the end")
        self.ended.set()
        self.error = error
        self.on_fail()

    def end(self) -> None:
        if self.ended.is_set():
            self.wrong.append("end after the end")
        self.ended.set()

    def generate(self, inner_id: str, adapter: Tensors) -> Iterator[Tensors | Failure]:
        self.inner_ids.append(inner_id)
        self.adapters.append(adapter)
        for step in self._second if self._second and len(self.inner_ids) == 2 else self._script:
            if self.stopped.is_set():
                break
            if isinstance(step, Exception):
                raise step
            if callable(step):
                step()
                continue
            yield step
        self.drained.set()

    def stop(self, inner_id: str) -> None:
        assert inner_id == self.inner_ids[0]
        self.stops += 1
        self.on_stop()
        if self.stops > self._stops_lost:
            self.stopped.set()

    @property
    def text(self) -> str:
        return b"".join(chunk["text"][0] for chunk in self.chunks).decode("utf-8")

    @property
    def token_ids(self) -> list[int]:
        return [token for chunk in self.chunks for token in chunk["token_ids"].tolist()]

    def fact(self, name: str) -> Any:
        value = self.chunks[-1][name][0]
        return value.decode() if isinstance(value, bytes) else value


@pytest.fixture
def frontend() -> Iterator[Frontend]:
    frontend = Frontend(MANIFEST, VOCABULARY, max_inflight=8, adapters=ADAPTERS, tokens_per_block=4)
    yield frontend
    frontend.close()
    assert frontend.inflight == 0


def wait(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def serve(frontend: Frontend, call: MemoryCall) -> MemoryCall:
    """Serve one call until its inner stream has ended."""
    frontend.submit(call)
    assert call.ended.wait(5)
    wait(lambda: frontend.inflight == 0)
    assert call.wrong == []
    return call


def test_an_answer_streams_as_text_and_ends_with_all_facts(frontend: Frontend) -> None:
    call = serve(frontend, MemoryCall([*tokens("Hi! 好"), END]))
    assert call.text == "Hi! 好"
    assert [chunk["text"][0].decode() for chunk in call.chunks] == ["H", "i", "!", " ", "好", ""]
    assert call.token_ids == [*"Hi! 好".encode(), EOS]
    assert set(call.chunks[-1]) == {t.name for t in contract.REPLY} - {"token_logprobs"}
    assert call.fact("finish_reason") == "stop"
    assert call.fact("completion_tokens") == 8  # the end token is counted
    assert call.fact("prompt_tokens") == PROMPT_TOKENS
    assert call.fact("cached_tokens") == 4
    assert call.fact("confidence") == pytest.approx(math.exp(-0.5))
    assert 0 < call.fact("time_to_first_token_ms") <= call.fact("total_ms") < 5000
    assert call.stops == 0


def test_log_probabilities_come_with_their_tokens_only_when_asked_for(frontend: Frontend) -> None:
    call = serve(frontend, MemoryCall([*tokens("ab"), END], logprobs=True))
    for chunk in call.chunks:
        assert chunk["token_logprobs"].tolist() == [-0.5] * len(chunk["token_ids"])
    assert len(call.token_ids) == 3


@pytest.mark.parametrize("batch", [True, False])
def test_a_response_may_carry_several_tokens(frontend: Frontend, batch: bool) -> None:
    script = [generated(list(b"one "), batch=batch), generated([*b"two", SECOND_EOS, *b"never"], batch=batch)]
    call = serve(frontend, MemoryCall(script))
    assert (call.text, call.fact("completion_tokens"), call.fact("finish_reason")) == ("one two", 8, "stop")
    assert call.token_ids[-1] == SECOND_EOS


def test_padding_behind_sequence_length_is_no_token(frontend: Frontend) -> None:
    padded = generated(list(b"abXX"))
    padded["sequence_length"] = np.array([2], np.int32)
    assert serve(frontend, MemoryCall([padded, END])).text == "ab"


def test_max_tokens_ends_an_answer_with_length_and_stops_a_model_that_goes_on(frontend: Frontend) -> None:
    call = serve(
        frontend, MemoryCall((generated([120]) for _ in iter(lambda: time.sleep(0.01), 1)), max_tokens=5)
    )
    assert (call.text, call.fact("finish_reason"), call.fact("completion_tokens")) == ("xxxxx", "length", 5)
    assert call.stops >= 1


def test_a_full_sequence_ends_an_answer_with_length(frontend: Frontend) -> None:
    room = MANIFEST.limits.max_seq_len - PROMPT_TOKENS
    call = serve(frontend, MemoryCall([generated([120])] * room))
    assert (call.fact("finish_reason"), call.fact("completion_tokens")) == ("length", room)


def test_an_end_token_at_the_limit_is_a_stop(frontend: Frontend) -> None:
    call = serve(frontend, MemoryCall([*tokens("ab"), END], max_tokens=3))
    assert (call.fact("finish_reason"), call.fact("completion_tokens")) == ("stop", 3)


def test_a_backend_that_leaves_out_the_end_token_still_means_stop(frontend: Frontend) -> None:
    call = serve(frontend, MemoryCall(tokens("done")))
    assert (call.text, call.fact("finish_reason"), call.fact("completion_tokens")) == ("done", "stop", 4)
    empty = serve(frontend, MemoryCall([]))
    assert (empty.text, empty.fact("finish_reason"), empty.fact("confidence")) == ("", "stop", 0.0)


def test_a_character_cut_by_the_end_is_replaced_only_at_the_end(frontend: Frontend) -> None:
    call = serve(frontend, MemoryCall([*tokens("a"), generated([0xE5]), generated([0xA5])], max_tokens=3))
    assert call.text == "a�"
    assert [len(chunk["token_ids"]) for chunk in call.chunks] == [1, 2]


def test_a_stop_string_over_several_tokens_ends_the_answer_and_the_inner_stream(frontend: Frontend) -> None:
    endless = ([*tokens("say STO"), *tokens("P it")] * 50)[: 11 * 50]
    slow = itertools.chain.from_iterable((lambda: time.sleep(0.005), step) for step in endless)
    call = serve(frontend, MemoryCall(slow, stops_lost=2, stop='["STOP"]'))
    assert (call.text, call.fact("finish_reason"), call.fact("completion_tokens")) == ("say ", "stop", 8)
    assert call.token_ids == list(b"say STOP")
    assert call.stops == 3, "a stop request that is lost is repeated"
    assert call.drained.is_set()


def test_the_begin_of_a_stop_string_is_given_out_when_the_answer_ends_there(frontend: Frontend) -> None:
    call = serve(frontend, MemoryCall([*tokens("a ST"), END], stop='["STOP"]'))
    assert call.text == "a ST"
    assert [chunk["text"][0] for chunk in call.chunks] == [b"a", b" ", b"ST"]


def test_a_caller_that_leaves_before_the_first_token_stops_the_inner_stream(frontend: Frontend) -> None:
    call = MemoryCall([], stops_lost=3)
    call._script = [lambda: call.stopped.wait(5), *tokens("late")]
    frontend.submit(call)
    wait(lambda: bool(call.inner_ids))
    call.cancelled = True
    assert call.drained.wait(2)
    wait(lambda: frontend.inflight == 0)
    assert isinstance(call.error, Cancelled)
    assert (call.chunks, call.stops, call.wrong) == ([], 4, [])


def test_a_caller_that_leaves_midway_stops_the_inner_stream_within_a_poll(frontend: Frontend) -> None:
    call = MemoryCall(generated([120]) for _ in iter(lambda: time.sleep(0.005), 1))
    frontend.submit(call)
    wait(lambda: len(call.chunks) > 3)
    call.cancelled = True
    left_s = time.monotonic()
    assert call.drained.wait(2)
    assert time.monotonic() - left_s < 0.5
    wait(lambda: frontend.inflight == 0)
    assert isinstance(call.error, Cancelled)
    assert call.wrong == []


KEY, OTHER_KEY = "k" * 32, "o" * 32


def endless() -> Iterator[Tensors]:
    return (generated([120]) for _ in iter(lambda: time.sleep(0.005), 1))


def test_a_goodbye_ends_its_answer_at_once_and_no_other(frontend: Frontend) -> None:
    call, other = MemoryCall(endless(), cancel_key=KEY), MemoryCall(endless(), cancel_key=OTHER_KEY)
    for each in (call, other):
        frontend.submit(each)
        wait(lambda each=each: len(each.chunks) > 3)
    goodbye = MemoryCall([], cancel=KEY)
    frontend.submit(goodbye)
    assert call.ended.is_set(), "the caller need not wait for the language model"
    assert isinstance(call.error, Cancelled)
    assert (goodbye.ended.is_set(), goodbye.error, goodbye.chunks, goodbye.inner_ids) == (True, None, [], [])
    assert call.drained.wait(2), "the inner stream is stopped"
    assert not other.ended.is_set()
    frontend.submit(MemoryCall([], cancel=OTHER_KEY))
    wait(lambda: frontend.inflight == 0)
    assert (call.wrong, other.wrong, goodbye.wrong) == ([], [], [])
    assert frontend.outcomes.taken == 2, "a goodbye is no request"


def test_a_goodbye_before_the_first_token_needs_no_response_of_the_language_model(frontend: Frontend) -> None:
    call = MemoryCall([], cancel_key=KEY)
    call._script = [lambda: call.stopped.wait(5), *tokens("late")]
    frontend.submit(call)
    wait(lambda: bool(call.inner_ids))
    frontend.submit(MemoryCall([], cancel=KEY))
    assert isinstance(call.error, Cancelled)
    assert call.drained.wait(2)
    wait(lambda: frontend.inflight == 0)
    assert (call.chunks, call.wrong) == ([], [])


def test_a_goodbye_that_comes_too_late_or_knows_no_key_changes_nothing(frontend: Frontend) -> None:
    call = serve(frontend, MemoryCall([*tokens("ok"), END], cancel_key=KEY))
    for key in (KEY, "", "guessed", 7):
        goodbye = MemoryCall([], cancel=key)
        frontend.submit(goodbye)
        assert (goodbye.ended.is_set(), goodbye.error) == (True, None)
    assert (call.text, call.error, call.wrong) == ("ok", None, [])


def test_goodbyes_work_while_the_server_drains(frontend: Frontend) -> None:
    call = MemoryCall(endless(), cancel_key=KEY)
    frontend.submit(call)
    wait(lambda: len(call.chunks) > 3)
    frontend.drain()
    frontend.submit(MemoryCall([], cancel=KEY))
    assert isinstance(call.error, Cancelled)
    wait(lambda: frontend.inflight == 0)


def test_a_key_is_one_requests_own_and_never_told(
    frontend: Frontend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    call = MemoryCall(endless(), cancel_key=KEY)
    frontend.submit(call)
    double = MemoryCall([], cancel_key=KEY)
    frontend.submit(double)
    short = MemoryCall([], cancel_key="short-key")
    frontend.submit(short)
    for refused in (double, short):
        assert isinstance(refused.error, InvalidOption)
        assert "cancel_key" in str(refused.error)
    frontend.submit(MemoryCall([], cancel=KEY))
    wait(lambda: frontend.inflight == 0)
    assert KEY not in caplog.text + str(double.error)
    assert "short-key" not in caplog.text + str(short.error)


def test_goodbyes_at_every_moment_of_many_answers_end_each_once(frontend: Frontend) -> None:
    calls = []
    for i in range(200):
        call = MemoryCall([*tokens("some text"), END], cancel_key=f"{i:032}")
        wait(lambda: frontend.inflight < 8)
        frontend.submit(call)
        time.sleep((i % 20) * 5e-5)
        frontend.submit(MemoryCall([], cancel=f"{i:032}"))
        calls.append(call)
    wait(lambda: frontend.inflight == 0)
    assert all(call.ended.is_set() and call.wrong == [] for call in calls)
    assert all(isinstance(call.error, Cancelled) or call.text == "some text" for call in calls)


def test_admission_is_bounded_and_refuses_at_once(frontend: Frontend) -> None:
    gate = threading.Event()
    held = [MemoryCall([lambda: gate.wait(5), *tokens("ok"), END]) for _ in range(8)]
    for call in held:
        frontend.submit(call)
    refused = MemoryCall(tokens("never"))
    started_s = time.monotonic()
    frontend.submit(refused)
    assert time.monotonic() - started_s < 0.1
    assert isinstance(refused.error, Overloaded)
    assert "8 requests" in str(refused.error)
    assert refused.inner_ids == []
    gate.set()
    wait(lambda: frontend.inflight == 0)
    assert [call.text for call in held] == ["ok"] * 8
    assert serve(frontend, MemoryCall([*tokens("again"), END])).text == "again"


def test_draining_refuses_new_requests_and_finishes_the_others() -> None:
    frontend = Frontend(MANIFEST, VOCABULARY, max_inflight=2, adapters=ADAPTERS)
    gate = threading.Event()
    going = MemoryCall([lambda: gate.wait(5), *tokens("on"), END])
    frontend.submit(going)
    frontend.drain()
    refused = MemoryCall([])
    frontend.submit(refused)
    assert isinstance(refused.error, Draining)
    gate.set()
    frontend.close()
    assert going.text == "on"
    frontend.submit(late := MemoryCall([]))
    assert isinstance(late.error, Draining)


def test_a_wrong_option_is_refused_before_the_ensemble_is_called(frontend: Frontend) -> None:
    call = MemoryCall([], temprature=0.5)
    frontend.submit(call)
    assert isinstance(call.error, InvalidOption)
    assert "temprature" in str(call.error)
    assert call.inner_ids == []


def test_a_fault_while_admitting_still_ends_the_request(
    frontend: Frontend, caplog: pytest.LogCaptureFixture
) -> None:
    call = MemoryCall([])
    call.parameters = None  # type: ignore[assignment]
    with caplog.at_level(logging.CRITICAL):
        frontend.submit(call)
    assert type(call.error) is EngineFailure
    assert frontend.inflight == 0


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        (
            "in ensemble 'ensemble', InvalidImage: field 'images[0]': got 0 bytes; allowed: a picture",
            InvalidImage,
            "field 'images[0]': got 0 bytes; allowed: a picture",
        ),
        ("PromptTooLong: 300 tokens; allowed: 200", PromptTooLong, "300 tokens; allowed: 200"),
        ("in ensemble 'ensemble', Exceeds maximum queue size", Overloaded, "try again later"),
        ("Server is stopping, scheduler for model has stopped accepting", Draining, "shutting down"),
    ],
)
def test_an_inner_error_keeps_its_class_and_text(
    frontend: Frontend, message: str, kind: type[ServingError], text: str
) -> None:
    call = serve(frontend, MemoryCall([Failure(message)]))
    assert type(call.error) is kind
    assert text in str(call.error)
    assert call.error.wire.startswith(f"{kind.__name__}: ")


def missing_log_probs() -> dict[str, Any]:
    return generated([1, 2]) | {"output_log_probs": np.zeros((1, 1, 0), np.float32)}


@pytest.mark.parametrize(
    "script",
    [
        [Failure("Stub process 'tensorrt_llm_0_0' is not healthy.")],
        [*tokens("ab"), Failure("EngineFailure: CUDA error somewhere")],
        [RuntimeError("BLS broke")],
        [*tokens("ab"), RuntimeError("BLS broke")],
        [missing_log_probs()],
        [{"output_ids": np.zeros((1, 1, 1), np.int32)}],
    ],
)
def test_what_the_caller_cannot_help_is_an_engine_failure_with_the_id_in_the_log(
    frontend: Frontend, caplog: pytest.LogCaptureFixture, script: list[Any]
) -> None:
    with caplog.at_level(logging.ERROR):
        call = serve(frontend, MemoryCall(script, client_id="client-1"))
    assert type(call.error) is EngineFailure
    (inner_id,) = call.inner_ids
    assert inner_id in str(call.error)
    assert any(
        inner_id in record.getMessage() and "client-1" in record.getMessage() for record in caplog.records
    )
    assert "CUDA" not in str(call.error)


def test_after_an_inner_error_the_rest_of_the_stream_is_read(frontend: Frontend) -> None:
    call = serve(frontend, MemoryCall([*tokens("ab"), Failure("InvalidImage: broken"), *tokens("c")]))
    assert call.text == "ab"
    assert call.drained.is_set()


def test_routing_ids_are_ours_even_if_the_client_repeats_its_own(frontend: Frontend) -> None:
    calls = [serve(frontend, MemoryCall([END], client_id="same")) for _ in range(3)]
    assert len({call.inner_ids[0] for call in calls} | {"same"}) == 4


@pytest.mark.parametrize("fails_too", [False, True])
@pytest.mark.parametrize("at", [1, 4])
def test_a_send_that_raises_ends_the_request_and_its_inner_stream(
    frontend: Frontend, caplog: pytest.LogCaptureFixture, at: int, fails_too: bool
) -> None:
    call = MemoryCall(
        itertools.chain(tokens("abc"), [END], (generated([1]) for _ in iter(lambda: time.sleep(0.005), 1)))
    )
    sends = itertools.count(1)

    def raise_at() -> None:
        if next(sends) >= at:
            raise ConnectionError("gone")

    call.on_send = raise_at
    if fails_too:
        call.on_fail = raise_at
    with caplog.at_level(logging.CRITICAL):
        serve(frontend, call)
    assert len(call.chunks) == at - 1
    assert type(call.error) is EngineFailure
    assert call.drained.is_set()
    assert serve(frontend, MemoryCall([*tokens("fine"), END])).text == "fine"


def test_the_watcher_outlives_calls_that_cannot_be_asked_or_stopped(
    frontend: Frontend, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("shared memory")

    unaskable = MemoryCall([])
    unaskable._script = [lambda: unaskable.stopped.wait(0.3), *tokens("ok"), END]
    unaskable.on_ask = broken
    hard_to_stop = MemoryCall([])
    hard_to_stop._script = [lambda: hard_to_stop.stopped.wait(5)]
    failures = iter([broken, broken])
    hard_to_stop.on_stop = lambda: next(failures, lambda: None)()
    with caplog.at_level(logging.CRITICAL):
        frontend.submit(unaskable)
        frontend.submit(hard_to_stop)
        wait(lambda: bool(hard_to_stop.inner_ids))
        hard_to_stop.cancelled = True
        assert hard_to_stop.drained.wait(3)
        wait(lambda: frontend.inflight == 0)
    assert unaskable.text == "ok"
    assert hard_to_stop.stops == 3
    assert isinstance(hard_to_stop.error, Cancelled)


def test_a_stop_request_that_hangs_does_not_keep_others_from_being_noticed(frontend: Frontend) -> None:
    gate = threading.Event()
    hanging = MemoryCall([lambda: gate.wait(5)])
    hanging.on_stop = lambda: gate.wait(5)  # type: ignore[assignment, return-value]
    other = MemoryCall(generated([120]) for _ in iter(lambda: time.sleep(0.005), 1))
    frontend.submit(hanging)
    frontend.submit(other)
    wait(lambda: bool(hanging.inner_ids))
    hanging.cancelled = True
    wait(lambda: hanging.stops == 1)
    other.cancelled = True
    assert other.drained.wait(1)
    assert hanging.stops == 1, "one stop request of a request is on its way at a time"
    gate.set()


def test_thousands_of_requests_of_all_kinds_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    frontend = Frontend(MANIFEST, VOCABULARY, max_inflight=16, adapters=ADAPTERS)
    dice = random.Random(3)
    calls: list[MemoryCall] = []

    def make(kind: int) -> MemoryCall:
        text = "x" * dice.randrange(8)
        call = [
            lambda: MemoryCall([*tokens(text), END]),
            lambda: MemoryCall([*tokens(text), Failure("InvalidImage: broken")]),
            lambda: MemoryCall([*tokens(text), RuntimeError("broke")]),
            lambda: MemoryCall([*tokens(text + "STOP and on"), END], stop='["STOP"]'),
            lambda: MemoryCall([*tokens(text), END], top_p=2),
            lambda: MemoryCall(generated([120]) for _ in range(3000)),
        ][kind]()
        call.cancelled = kind == 5
        return call

    def submit(count: int) -> None:
        for _ in range(count):
            call = make(dice.randrange(6))
            calls.append(call)
            frontend.submit(call)
            while frontend.inflight >= 14 and dice.random() < 0.95:
                time.sleep(0.001)

    with caplog.at_level(logging.CRITICAL):
        others = threading.active_count()
        submitters = [threading.Thread(target=submit, args=(500,)) for _ in range(4)]
        for thread in submitters:
            thread.start()
        for thread in submitters:
            thread.join(60)
        wait(lambda: frontend.inflight == 0, 30)
        assert threading.active_count() < others + 16 + 4 + 1 + 8
        frontend.close()
    assert frontend.inflight == 0
    assert len(frontend._watcher._flights) == 0
    assert len(calls) == 2000
    for call in calls:
        assert call.ended.is_set()
        assert call.wrong == []
        if call.error is None:
            assert call.fact("finish_reason") in ("stop", "length")
    kinds = {type(call.error).__name__ for call in calls}
    assert {"NoneType", "InvalidImage", "EngineFailure", "InvalidOption"} <= kinds


MISSING = Failure(
    "in ensemble 'ensemble', Executor failed process requestId 7 due to the following error: LoRA task 2 not found in cache. "
    "Please send LoRA weights with request"
)


@pytest.fixture
def two_adapters(tmp_path: Path) -> Iterator[Frontend]:
    folder = tmp_path / "adapters" / "laptops"
    folder.mkdir(parents=True)
    np.save(folder / "model.lora_weights.npy", np.zeros((1, 2, 4), np.float16))
    np.save(folder / "model.lora_config.npy", np.ones((1, 2, 3), np.int32))
    adapters = Adapters(("phones", "laptops"), tmp_path)
    frontend = Frontend(MANIFEST, VOCABULARY, max_inflight=2, adapters=adapters)
    yield frontend
    frontend.close()


def test_a_cached_adapter_goes_out_as_its_id_alone(two_adapters: Frontend) -> None:
    call = serve(two_adapters, MemoryCall([*tokens("ok"), END], lora_name="laptops"))
    assert call.text == "ok"
    assert [list(tensors) for tensors in call.adapters] == [["lora_task_id"]]
    assert call.adapters[0]["lora_task_id"].tolist() == [[2]]


def test_an_adapter_that_is_not_cached_goes_out_once_more_with_its_weights(two_adapters: Frontend) -> None:
    call = MemoryCall([MISSING], second=[*tokens("ok"), END], lora_name="laptops")
    serve(two_adapters, call)
    assert (call.text, call.error) == ("ok", None)
    assert [sorted(tensors) for tensors in call.adapters] == [
        ["lora_task_id"],
        ["lora_config", "lora_task_id", "lora_weights"],
    ]
    assert len(set(call.inner_ids)) == 1


def test_an_adapter_that_is_refused_with_its_weights_is_a_failure(two_adapters: Frontend) -> None:
    call = serve(two_adapters, MemoryCall([MISSING], lora_name="laptops"))
    assert isinstance(call.error, EngineFailure)
    assert len(call.adapters) == 2


def test_an_unknown_adapter_is_refused_at_once(two_adapters: Frontend) -> None:
    call = serve(two_adapters, MemoryCall([END], lora_name="tablets"))
    assert isinstance(call.error, InvalidOption)
    assert call.adapters == []


def test_no_adapter_sends_no_tensor_of_one(frontend: Frontend) -> None:
    assert serve(frontend, MemoryCall([END])).adapters == [{}]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Maximum queue size of 64 has been reached, please try again later", Overloaded),
        ("Prompt length (9000) exceeds maximum input length (4096). Set log level to info", PromptTooLong),
        ("Encountered an error in forwardAsync function: rows", EngineFailure),
    ],
)
def test_errors_of_the_cpp_backend_become_ours(
    frontend: Frontend, text: str, kind: type[ServingError]
) -> None:
    call = serve(frontend, MemoryCall([Failure(f"in ensemble 'ensemble', {text}")]))
    assert type(call.error) is kind
    assert "forwardAsync" not in str(call.error)


def test_a_zero_length_final_response_of_the_cpp_backend_ends_the_answer(frontend: Frontend) -> None:
    final = generated([])
    final["output_log_probs"] = np.full((1, 1, 2), -0.5, np.float32)  # of all tokens so far
    call = serve(frontend, MemoryCall([*tokens("ok"), final]))
    assert (call.text, call.fact("finish_reason"), call.fact("completion_tokens")) == ("ok", "stop", 2)
    assert call.fact("confidence") == pytest.approx(math.exp(-0.5))


def test_log_probabilities_of_all_tokens_so_far_are_read_from_the_end(frontend: Frontend) -> None:
    first, second = generated([111], -1.0), generated([107])
    second["output_log_probs"] = np.array([[[-1.0, -3.0]]], np.float32)
    call = serve(frontend, MemoryCall([first, second, generated([])], logprobs=True))
    logprobs = [value for chunk in call.chunks for value in chunk["token_logprobs"].tolist()]
    assert logprobs == [-1.0, -3.0]
