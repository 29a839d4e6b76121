"""The batcher without threads: whatever happens around it, a request's answer is the one it gets alone."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ensemble.errors import EngineFailure, PromptTooLong
from ensemble.language_model.batcher import Batcher
from ensemble.language_model.request import Output, Request, Sampling
from tests import fakes


class Run:
    """Drives a batcher and collects what each request got."""

    def __init__(self, num_blocks: int = 64, reuse: bool = True, **limits: int) -> None:
        self.model = fakes.FakeLanguageModel(num_blocks)
        self.batcher = Batcher(self.model, fakes.manifest(**limits), reuse)
        self.tokens: dict[str, list[int]] = defaultdict(list)
        self.last: dict[str, Output] = {}

    def submit(self, *requests: Request) -> None:
        for request in requests:
            self.batcher.submit(self.batcher.prepare(request))

    def note(self, news: list[tuple[str, Output]]) -> None:
        for name, output in news:
            assert name not in self.last, "news after the last one"
            self.tokens[name] += output.token_ids
            if output.finished:
                self.last[name] = output

    def step(self) -> None:
        self.note(self.batcher.step())
        self.batcher.check()

    def finish(self) -> None:
        while not self.batcher.idle:
            self.step()
        assert self.batcher.counters.kv_blocks_in_use == 0


def test_one_request_gets_the_answer_of_the_model_alone() -> None:
    run, request = Run(), fakes.request("a", [20, (1, 9), 13])
    run.submit(request)
    run.finish()
    assert run.tokens["a"] == fakes.answer_alone(request)
    assert run.last["a"].num_input_tokens == 42


def test_the_last_output_holds_the_end_token_and_says_stop() -> None:
    run, plain = Run(), fakes.request("a", [20], max_new_tokens=6, end_ids=())
    third = fakes.answer_alone(plain)[2]
    run.submit(dataclasses.replace(plain, end_ids=(third,)), dataclasses.replace(plain, request_id="b"))
    run.finish()
    assert run.tokens["a"][-1] == third
    assert run.last["a"].finish_reason == "stop"
    assert len(run.tokens["b"]) == 6
    assert run.last["b"].finish_reason == "length"


def test_decodes_go_on_while_a_long_prompt_is_computed_in_chunks() -> None:
    run = Run(max_num_tokens=16)
    run.submit(fakes.request("short", [5], end_ids=()))
    run.step()
    run.submit(fakes.request("long", [100], end_ids=()))
    for _ in range(6):
        run.step()
    assert run.model.steps[1:7] == [[1, 15]] * 6
    assert len(run.tokens["short"]) == 7
    run.finish()
    assert max(map(sum, run.model.steps)) <= 16


def test_requests_are_admitted_in_the_order_of_arrival() -> None:
    run = Run(max_batch_size=1)
    run.submit(*(fakes.request(name, [30 - i], max_new_tokens=2) for i, name in enumerate("abcd")))
    run.finish()
    assert list(run.last) == list("abcd")


def test_when_blocks_run_out_the_youngest_is_preempted_and_sends_no_token_twice() -> None:
    run = Run(num_blocks=6, reuse=False)
    old, young = (fakes.request(n, [40 + i], max_new_tokens=100, end_ids=()) for i, n in enumerate("ab"))
    run.submit(old, young)
    run.finish()
    assert run.batcher.counters.preemptions > 0
    assert list(run.last) == ["a", "b"]
    assert run.tokens["a"] == fakes.answer_alone(old)
    assert run.tokens["b"] == fakes.answer_alone(young)


def test_a_preempted_request_finds_its_own_blocks_again() -> None:
    run = Run(num_blocks=6)
    requests = [fakes.request(n, [50 + i], max_new_tokens=90, end_ids=()) for i, n in enumerate("ab")]
    run.submit(*requests)
    run.finish()
    assert run.batcher.counters.preemptions > 0
    computed_without_cache = sum(len(r.input_ids) + r.max_new_tokens for r in requests)
    assert run.batcher.counters.computed_tokens < 1.5 * computed_without_cache
    assert all(run.tokens[r.request_id] == fakes.answer_alone(r) for r in requests)


def test_a_preempted_request_still_reports_the_reuse_of_its_first_admission() -> None:
    run = Run(num_blocks=6)
    run.submit(*(fakes.request(n, [50 + i], max_new_tokens=90, end_ids=()) for i, n in enumerate("ab")))
    run.finish()
    assert run.batcher.counters.preemptions > 0
    assert run.batcher.counters.reused_blocks > 0
    assert [run.last[n].reused_blocks for n in "ab"] == [0, 0]


def test_a_request_is_admitted_only_when_those_that_run_have_a_block_to_grow_into() -> None:
    run = Run(num_blocks=4, reuse=False)
    run.submit(*(fakes.request(n, [63 - i], max_new_tokens=9, end_ids=()) for i, n in enumerate("ab")))
    run.finish()
    assert run.model.steps[0] == [63]  # two blocks are free, and the second one needs both
    assert run.batcher.counters.preemptions == 0


def test_a_sequence_that_can_never_fit_is_refused_with_the_size_of_the_cache() -> None:
    run = Run(num_blocks=3)
    run.batcher.prepare(fakes.request("fits", [81], max_new_tokens=16))
    with pytest.raises(PromptTooLong, match="96 tokens together"):
        run.batcher.prepare(fakes.request("too long", [82], max_new_tokens=16))


def test_an_equal_prompt_computes_only_what_is_not_in_full_blocks() -> None:
    run = Run()
    run.submit(fakes.request("a", [40, (1, 40)]))
    run.finish()
    before = run.batcher.counters.computed_tokens
    run.submit(again := fakes.request("b", [40, (1, 40)], max_new_tokens=1))
    run.finish()
    assert run.last["b"].reused_blocks == 2
    assert run.batcher.counters.computed_tokens - before == 80 - 64
    assert run.tokens["b"] == fakes.answer_alone(again)


def test_the_last_prompt_token_is_computed_again_even_if_all_blocks_are_known() -> None:
    run = Run()
    run.submit(fakes.request("a", [64], max_new_tokens=40))
    run.finish()
    run.submit(again := fakes.request("b", [64], max_new_tokens=3))
    run.finish()
    assert run.last["b"].reused_blocks == 1
    assert run.tokens["b"] == fakes.answer_alone(again)


def test_steps_are_no_longer_than_the_model_is_fast_with() -> None:
    for most, expected in ((16, [16, 16, 8]), (0, [40]), (1 << 20, [40]), (1, [8, 8, 8, 8, 8])):
        model, request = fakes.FakeLanguageModel(24, most), fakes.request("a", [40], max_new_tokens=1)
        batcher = Batcher(model, fakes.manifest(max_batch_size=8, max_num_tokens=128))
        batcher.submit(batcher.prepare(request))
        while not batcher.idle:
            batcher.step()
        assert [sum(step) for step in model.steps] == expected


def test_the_blocks_of_an_answer_are_found_by_the_next_turn() -> None:
    run, first = Run(), fakes.request("a", [50], max_new_tokens=60, end_ids=())
    run.submit(first)
    run.finish()
    ids = np.concatenate([first.input_ids, run.tokens["a"], [7, 8, 9]]).astype(np.int32)
    second = dataclasses.replace(
        first,
        request_id="b",
        input_ids=ids,
        extra_ids=np.zeros(len(ids), np.uint64),
        mrope_cos_sin=fakes.rotary(len(ids) + 60),
    )
    run.submit(second)
    run.finish()
    assert run.last["b"].reused_blocks == 3  # of 109 tokens; the last one of the first turn was not computed
    assert run.tokens["b"] == fakes.answer_alone(second)


def test_two_pictures_of_equal_size_never_share_blocks() -> None:
    run, requests = Run(), [fakes.request(str(i), [32, (i, 40), 5]) for i in range(3)]
    for request in requests:
        run.submit(request)
        run.finish()
        assert run.tokens[request.request_id] == fakes.answer_alone(request)
    assert [run.last[r.request_id].reused_blocks for r in requests] == [
        0,
        1,
        1,
    ]  # the text before the picture


def test_one_content_on_two_grids_never_shares_blocks() -> None:
    run, wide = Run(), fakes.request("wide", [(1, 64), 5])
    turned = wide.mrope_cos_sin.copy()
    turned[10:64] = turned[10:64][::-1]
    high = dataclasses.replace(wide, request_id="high", mrope_cos_sin=turned)
    run.submit(wide)
    run.finish()
    run.submit(high)
    run.finish()
    assert run.last["high"].reused_blocks == 0
    assert run.tokens["high"] == fakes.answer_alone(high)


def test_equal_prompts_that_arrive_together_are_computed_once() -> None:
    run = Run(max_num_tokens=512)
    requests = [fakes.request(str(i), [(5, 100), 3 + i], max_new_tokens=3) for i in range(8)]
    run.submit(*requests)
    run.finish()
    assert run.batcher.counters.reused_blocks == 7 * 3
    assert all(run.tokens[r.request_id] == fakes.answer_alone(r) for r in requests)


def test_without_reuse_nothing_is_shared() -> None:
    run = Run(reuse=False)
    for name in "ab":
        run.submit(fakes.request(name, [100]))
        run.finish()
    assert run.batcher.counters.reused_blocks == 0
    assert run.batcher.counters.kv_blocks_cached == 0


def test_a_cancelled_request_gives_its_blocks_back_at_once_in_any_state() -> None:
    run = Run(max_batch_size=2, max_num_tokens=16)
    run.submit(*(fakes.request(n, [60 + i], end_ids=()) for i, n in enumerate("abc")))
    run.step()
    for name, state in (("c", "waiting"), ("b", "waiting or prefilling"), ("a", "prefilling")):
        run.note(run.batcher.cancel(name))
        run.batcher.check()
        assert run.last[name].finish_reason == "cancelled", state
    assert run.batcher.idle
    assert run.batcher.counters.kv_blocks_in_use == 0


def test_cancelling_an_unknown_request_does_nothing() -> None:
    assert Run().batcher.cancel("nobody") == []


def test_a_sequence_with_nan_logits_fails_alone_and_its_blocks_are_cleared() -> None:
    run = Run(num_blocks=6)
    good, bad = fakes.request("good", [70]), fakes.request("bad", [32, 39])
    bad.mrope_cos_sin[40:50] = np.nan
    run.submit(good)
    run.step()
    run.submit(bad, after := fakes.request("after", [32, 40]))
    run.finish()
    assert isinstance(run.last["bad"].error, EngineFailure)
    assert run.tokens["good"] == fakes.answer_alone(good)
    assert run.tokens["after"] == fakes.answer_alone(after)
    assert run.batcher.counters.failed_sequences == 1
    assert not (run.model.slots == fakes.NAN).any()


def test_a_step_that_raises_fails_its_requests_and_the_next_ones_work() -> None:
    run = Run(max_batch_size=1)
    lost, waiting = fakes.request("lost", [40]), fakes.request("waiting", [41])
    run.submit(lost, waiting)
    run.model.fail_next = RuntimeError("oneDNN is out of memory")
    run.finish()
    assert isinstance(run.last["lost"].error, EngineFailure)
    assert "oneDNN is out of memory" in str(run.last["lost"].error)
    assert run.tokens["waiting"] == fakes.answer_alone(waiting)


def test_log_probabilities_come_only_when_asked_for() -> None:
    run = Run()
    plain = fakes.request("a", [10], max_new_tokens=1)
    run.submit(plain, dataclasses.replace(plain, request_id="b", return_log_probs=True))
    run.finish()
    assert run.last["a"].log_probs == ()
    assert -10 < run.last["b"].log_probs[0] < 0


PARTS = st.lists(
    st.one_of(st.sampled_from([1, 3, 31, 32, 33, 64]), st.tuples(st.integers(0, 2), st.integers(1, 40))),
    min_size=1,
    max_size=4,
).filter(lambda parts: sum(p if isinstance(p, int) else p[1] for p in parts) <= 200)
SAMPLINGS = st.sampled_from(
    [
        Sampling(),
        Sampling(top_k=0, temperature=0.7, top_p=0.9, seed=11),
        Sampling(top_k=5, temperature=1.5, min_p=0.05, seed=2**63),
        Sampling(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2),
    ]
)


class AnyTraffic(RuleBasedStateMachine):
    """Random arrivals, cancels and failures over a pool that is far too small."""

    def __init__(self) -> None:
        super().__init__()
        self.run = Run(num_blocks=9, max_batch_size=4, max_num_tokens=24)
        self.requests: dict[str, Request] = {}
        self.disturbed: set[str] = set()

    @rule(parts=PARTS, max_new_tokens=st.integers(1, 60), sampling=SAMPLINGS)
    def arrive(self, parts: list[int | tuple[int, int]], max_new_tokens: int, sampling: Sampling) -> None:
        request = fakes.request(str(len(self.requests)), parts, max_new_tokens, sampling)
        self.requests[request.request_id] = request
        self.run.submit(request)

    @rule(steps=st.integers(1, 20))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.run.step()

    @rule(which=st.integers(0, 30))
    def cancel(self, which: int) -> None:
        self.disturbed.add(str(which))
        self.run.note(self.run.batcher.cancel(str(which)))

    @rule()
    def fail_a_step(self) -> None:
        self.run.model.fail_next = RuntimeError("broken")
        before = set(self.run.last)
        self.run.step()
        self.run.model.fail_next = None
        self.disturbed |= set(self.run.last) - before

    @invariant()
    def books_add_up(self) -> None:
        self.run.batcher.check()

    def teardown(self) -> None:
        self.run.finish()
        assert self.run.last.keys() == self.requests.keys()
        for name, request in self.requests.items():
            expected = fakes.answer_alone(request)
            got = self.run.tokens[name]
            assert got == expected[: len(got)]
            assert name in self.disturbed or got == expected


TestAnyTraffic = AnyTraffic.TestCase
TestAnyTraffic.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
