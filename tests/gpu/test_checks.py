"""Every check of the checklist fails when it should: a server made of dictionaries, with one fault at a time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from qwen3vl_client.errors import InvalidOption
from qwen3vl_client.reply import Reply, Timings, Usage

from build_engine.manifest import Limits
from tests.demo_preprocessor import manifest
from tests.gpu import checks
from tests.gpu.checks import Subject
from tests.gpu.conversation import Conversation
from tests.gpu.teacher import Judgement

ERROR = 6.0
TIMINGS = Timings(1.0, 2.0, 1.0, 2.0, 1)


def content(conversation: Conversation, adapter: str = "") -> int:
    """What an answer depends on."""
    return zlib.crc32(repr((conversation.messages, conversation.images, adapter)).encode())


def tokens(seed: int, count: int) -> tuple[int, ...]:
    return tuple(int(token) for token in np.random.default_rng(seed).integers(97, 123, count))


@dataclass
class FakeClient:
    """Answers as it should: the tokens follow from the request. `fault` changes each reply; it sees the requests so far."""

    fault: Callable[[Reply, list[Conversation], Mapping[str, Any]], Reply] = lambda reply, *_: reply
    adapters: tuple[str, ...] = ()
    asked: list[Conversation] = field(default_factory=list)

    def chat(self, messages: list[Any], images: list[bytes], max_tokens: int, **options: Any) -> Reply:
        conversation = Conversation(tuple(messages), tuple(images))
        name = options.get("lora_name", "")
        if name and name not in self.adapters:
            raise InvalidOption(f"field 'lora_name': got {name}; allowed: {self.adapters}")
        ids = tokens(content(conversation, name), max_tokens)
        text = "".join(map(chr, ids))
        if stop := options.get("stop"):
            text = text[: text.index(stop[0])]
            ids = ids[: len(text)]
        cached = 0
        if conversation in self.asked:
            cached = 96
        elif any(before.messages == conversation.messages for before in self.asked):
            cached = 32
        self.asked.append(conversation)
        usage = Usage(100, len(ids), cached)
        logprobs = tuple(-0.1 - token / 1e3 - len(name) for token in ids)
        reply = Reply(text, "stop" if stop else "length", 0.9, usage, TIMINGS, "id", ids, logprobs)
        return self.fault(reply, self.asked, options)


class FakeTeacher:
    """Knows which tokens belong to a conversation."""

    def judge(
        self, conversation: Conversation, ids: tuple[int, ...], logprobs: tuple[float, ...]
    ) -> Judgement:
        right = np.array([a == b for a, b in zip(ids, tokens(content(conversation), len(ids)), strict=True)])
        return Judgement(np.where(right, 0.0, ERROR), np.where(right, 0.0, ERROR))

    def first_visual_token(self, conversation: Conversation) -> int:
        return 40


def subject(client: FakeClient, teacher: Any = None, limits: Limits | None = None) -> Subject:
    made = replace(manifest(), adapters=client.adapters)
    if limits:
        made = replace(made, limits=limits)
    return Subject("fake", cast(Any, None), made, cast(Any, client), teacher or cast(Any, FakeTeacher()))


def test_a_right_server_passes() -> None:
    assert checks.long_answer(subject(FakeClient()))["mean error"] == 0
    assert (
        checks.unequal_visual_counts(subject(FakeClient()))["mean error with another request's pictures"] > 1
    )
    assert (
        checks.prefix_reuse(subject(FakeClient()))["reused (first, again, other, back)"] == "[0, 96, 32, 96]"
    )
    assert checks.adapters(subject(FakeClient(adapters=("one", "two")))) == {"adapters": "one, two"}
    assert checks.unknown_adapter(subject(FakeClient()))
    table = checks.throughput(subject(FakeClient()), levels=(1, 2), rounds=2, tokens=8)["table"]
    assert [(row["at once"], row["requests"]) for row in table] == [(1, 2), (2, 4)]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            lambda reply, *_: replace(
                reply, token_ids=reply.token_ids[:60], token_logprobs=reply.token_logprobs[:60]
            ),
            "60 tokens",
        ),
        (
            lambda reply, *_: replace(reply, token_logprobs=(0.0,) * len(reply.token_ids)),
            "normalize_log_probs",
        ),
        (lambda reply, *_: replace(reply, token_logprobs=()), "without tokens or log-probabilities"),
        # Right for a long while, then wrong: the mean over all is small, the largest gap is not.
        (lambda reply, *_: replace(reply, token_ids=(*reply.token_ids[:-1], 1)), "mean error|gap"),
    ],
)
def test_a_long_answer_must_be_long_and_right(fault: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        checks.long_answer(subject(FakeClient(fault)))


def test_errors_that_grow_late_are_seen_though_the_mean_is_small() -> None:
    class Drifting(FakeTeacher):
        def judge(
            self, conversation: Conversation, ids: tuple[int, ...], logprobs: tuple[float, ...]
        ) -> Judgement:
            errors = np.where(np.arange(len(ids)) > 0.8 * len(ids), 2e-3, 0.0)
            return Judgement(errors, np.zeros(len(ids)))

    with pytest.raises(AssertionError, match="errors grow"):
        checks.long_answer(subject(FakeClient(), Drifting()))


def test_an_answer_about_another_requests_pictures_is_seen() -> None:
    def mixed(reply: Reply, asked: list[Conversation], _: Any) -> Reply:
        other = asked[0]
        return replace(reply, token_ids=tokens(content(other), len(reply.token_ids)))

    with pytest.raises(AssertionError, match="mean error"):
        checks.unequal_visual_counts(subject(FakeClient(mixed)))


def test_a_judge_that_sees_no_difference_proves_nothing() -> None:
    class Blind(FakeTeacher):
        def judge(
            self, conversation: Conversation, ids: tuple[int, ...], logprobs: tuple[float, ...]
        ) -> Judgement:
            return Judgement(np.zeros(len(ids)), np.zeros(len(ids)))

    with pytest.raises(AssertionError, match="would not be seen"):
        checks.unequal_visual_counts(subject(FakeClient(), Blind()))


@pytest.mark.parametrize(
    ("cached", "message"),
    [
        ((0, 0, 32, 96), "was not reused"),
        ((0, 96, 96, 96), "reused for another picture"),
        ((0, 96, 0, 96), "reused for another picture"),
        ((16, 96, 32, 96), "never seen before"),
        ((0, 96, 32, 32), "came back"),
    ],
)
def test_wrong_reuse_is_seen(cached: tuple[int, ...], message: str) -> None:
    def fault(reply: Reply, asked: list[Conversation], _: Any) -> Reply:
        return replace(reply, usage=replace(reply.usage, cached_tokens=cached[len(asked) - 1]))

    with pytest.raises(AssertionError, match=message):
        checks.prefix_reuse(subject(FakeClient(fault)))


def test_a_reused_picture_that_answers_for_another_is_seen() -> None:
    def fault(reply: Reply, asked: list[Conversation], _: Any) -> Reply:
        return replace(reply, token_ids=tokens(content(asked[0]), len(reply.token_ids)))

    with pytest.raises(AssertionError, match="other"):
        checks.prefix_reuse(subject(FakeClient(fault)))


def test_a_stop_string_in_the_answer_is_seen() -> None:
    def fault(reply: Reply, _: Any, options: Mapping[str, Any]) -> Reply:
        return replace(reply, text=reply.text + options["stop"][0]) if "stop" in options else reply

    with pytest.raises(AssertionError, match="is in"):
        checks.stop_and_cancel(subject(FakeClient(fault)))


def test_an_adapter_without_effect_and_one_that_leaks_are_seen() -> None:
    def without_effect(reply: Reply, asked: list[Conversation], options: Mapping[str, Any]) -> Reply:
        ids = tokens(content(asked[-1]), len(reply.token_ids))
        return replace(reply, token_ids=ids, token_logprobs=tuple(-0.1 - token / 1e3 for token in ids))

    with pytest.raises(AssertionError, match="changes nothing"):
        checks.adapters(subject(FakeClient(without_effect, ("one",))))

    def leaking(reply: Reply, asked: list[Conversation], options: Mapping[str, Any]) -> Reply:
        late = len(asked) > 3 and options.get("lora_name") == "one"
        return replace(reply, token_ids=tokens(1, len(reply.token_ids))) if late else reply

    with pytest.raises(AssertionError, match="in company"):
        checks.adapters(subject(FakeClient(leaking, ("one", "two"))))


def test_an_unknown_adapter_that_is_taken_is_seen() -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        checks.unknown_adapter(subject(FakeClient(adapters=("no-such-adapter",))))


def test_a_server_that_goes_on_after_a_cancel_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        def __enter__(self) -> Any:
            return iter([SimpleNamespace(token_ids=(1,))] * 100)

        def __exit__(self, *_: object) -> None:
            counted[checks.GENERATED] = 1000.0
            counted[checks.IN_FLIGHT] = 0.0

    counted = {checks.GENERATED: 0.0, checks.IN_FLIGHT: 1.0}
    client, teacher = FakeClient(), FakeTeacher()
    client.stream = lambda *_, **__: Stream()  # type: ignore[attr-defined]
    teacher.prompt = lambda _: SimpleNamespace(input_ids=np.zeros((1, 50)))  # type: ignore[attr-defined]
    monkeypatch.setattr(Subject, "metric", lambda _, name: counted[name])
    with pytest.raises(AssertionError, match="tokens generated after the cancel: 984, allowed 0"):
        checks.stop_and_cancel(subject(client, teacher), seconds=0.0)
    counted.update({checks.GENERATED: 0.0, checks.IN_FLIGHT: 1.0})
    assert (
        checks.stop_and_cancel(subject(client, teacher), seconds=None)["tokens generated after the cancel"]
        == 984
    )
    whole = Limits(4, 2048, 50 + 1000, 2048, 1024)
    counted.update({checks.GENERATED: 0.0, checks.IN_FLIGHT: 1.0})
    with pytest.raises(AssertionError, match="allowed 983 of 1000"):
        checks.stop_and_cancel(subject(client, teacher, whole), seconds=None)


def test_a_prompt_that_fits_a_chunk_is_a_said_skip() -> None:
    with pytest.raises(pytest.skip.Exception, match="no prompt is longer than a chunk"):
        checks.chunked_context(subject(FakeClient(), limits=Limits(4, 2048, 4096, 2048, 1024)))


@pytest.mark.parametrize("wrong", ["level", "picture", "shape"])
def test_wrong_rows_are_seen(wrong: str) -> None:
    from tests.gpu.conversation import asked

    rows = np.random.default_rng(0).standard_normal((72, 3, 8)).astype(np.float32)

    class Teacher(FakeTeacher):
        manifest = manifest()

        def prompt(self, conversation: Conversation) -> Any:
            assert len(conversation.images) == 3 == len(asked("", *conversation.images).images)
            return SimpleNamespace(pixel_patches=np.zeros((1, 288, 4)), grid_thw=np.zeros((1, 3, 3)))

        def rows(self, patches: Any, grids: Any) -> Any:
            return rows

    def encode(patches: Any, grids: Any) -> Any:
        made = rows.copy()
        if wrong == "level":
            made[:, [1, 2]] = made[:, [2, 1]]
        elif wrong == "picture":
            made = np.roll(made, 12, axis=0)
        return made[:, :2] if wrong == "shape" else made

    with pytest.raises(AssertionError, match=r"^(rows|mean errors)"):
        checks.vision_rows(cast(Any, SimpleNamespace(encode=encode)), cast(Any, Teacher()))


def test_every_weight_has_limits() -> None:
    from build_engine.trtllm.options import WEIGHTS

    assert set(checks.LIMITS) == {"f32", *WEIGHTS}
    assert all(0 < mean < gap for mean, gap in checks.LIMITS.values())
    assert Path(checks.__file__).name == "checks.py"
