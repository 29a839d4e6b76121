"""The target tensorrt-llm behind the same public model: NVIDIA's C++ backend played by tests/server/cpp_backend/stand_in.py.

Everything but that model and the encoder's engine is the real thing: the repository rendered from the profile `gpu` and an
engine directory, the ensemble on a real Triton, preprocessing, the entry. Answers are compared with the target openvino.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qwen3vl_client import Client, Interrupted, InvalidOption, PromptTooLong, Reply

from build_engine.manifest import Manifest
from ensemble.contract import LANGUAGE_MODEL, contract
from ensemble.loopback import Loopback
from tests.conversations import IMAGE, conversations, said, user
from tests.reference import Conversation, png
from tests.server.cpp_backend.engines import ADAPTERS, write_engines
from tests.server.triton import Server, serving

pytestmark = pytest.mark.server
TOKENS = 48
ENDLESS: dict[str, Any] = {"max_tokens": 1500, "repetition_penalty": 0.1}
"""What was said becomes likelier, so the answer repeats one word and never ends by itself."""


@pytest.fixture(scope="module")
def cpp_engines(demo_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines") / "tensorrt-llm", demo_engines)


@pytest.fixture(scope="module")
def cpp_server(cpp_engines: Path) -> Iterator[Server]:
    with serving(cpp_engines, program="tests.server.cpp_backend.serve") as running:
        yield running


@pytest.fixture(scope="module")
def cpp(cpp_server: Server) -> Iterator[Client]:
    with Client(cpp_server.grpc_url) as opened:
        yield opened


def ask(client: Client, conversation: Conversation, **options: Any) -> Reply:
    media = {"images": list(conversation.images), "videos": list(conversation.videos)}
    return client.chat(list(conversation.messages), **media, **{"max_tokens": TOKENS, **options})


def same(ours: Reply, theirs: Reply) -> bool:
    """Whether two answers are equal; the C++ backend does not report the token that ends one."""
    ended = theirs.finish_reason == "stop"
    return (ours.text, ours.finish_reason, list(ours.token_ids), ours.usage.prompt_tokens) == (
        theirs.text,
        theirs.finish_reason,
        list(theirs.token_ids[: len(theirs.token_ids) - ended]),
        theirs.usage.prompt_tokens,
    )


@pytest.mark.parametrize("name", list(conversations()))
def test_an_answer_equals_the_target_openvino(name: str, cpp: Client, client: Client) -> None:
    conversation = conversations()[name]
    ours, theirs = ask(cpp, conversation), ask(client, conversation)
    assert same(ours, theirs), f"{ours}\n{theirs}"
    assert ours.usage.completion_tokens == len(ours.token_ids)


def test_sixteen_at_once_equal_the_target_openvino(cpp: Client, client: Client) -> None:
    chosen = (list(conversations().values()) * 2)[:16]
    with ThreadPoolExecutor(16) as pool:
        ours = list(pool.map(lambda conversation: ask(cpp, conversation), chosen))
    wrong = [str(a) for a, b in zip(ours, chosen, strict=True) if not same(a, ask(client, b))]
    assert not wrong


def test_log_probabilities_are_those_of_all_tokens(cpp: Client, client: Client) -> None:
    ours = cpp.chat("Hello", max_tokens=TOKENS, logprobs=True)
    theirs = client.chat("Hello", max_tokens=TOKENS, logprobs=True)
    assert len(ours.token_logprobs) == len(ours.token_ids)
    np.testing.assert_allclose(ours.token_logprobs, theirs.token_logprobs[: len(ours.token_ids)], atol=1e-4)
    assert min(ours.token_logprobs) < 0
    assert ours.confidence == pytest.approx(float(np.exp(np.mean(ours.token_logprobs))), rel=1e-4)


def test_an_answer_streams_and_ends_at_a_stop_string_or_a_length(cpp: Client) -> None:
    whole = cpp.chat("Hello", max_tokens=TOKENS)
    with cpp.stream("Hello", max_tokens=TOKENS) as stream:
        pieces = [chunk.text for chunk in stream]
    assert len(pieces) > 5
    assert "".join(pieces) == whole.text
    cut = cpp.chat("Hello", max_tokens=TOKENS, stop=[whole.text[20:24]])
    assert (cut.text, cut.finish_reason) == (whole.text[:20], "stop")
    short = cpp.chat("Hello", max_tokens=5)
    assert (short.finish_reason, short.usage.completion_tokens) == ("length", 5)
    assert list(short.token_ids) == list(whole.token_ids[:5])


def test_a_caller_that_leaves_stops_its_sequence_within_two_tokens(cpp: Client, cpp_server: Server) -> None:
    def ended() -> list[str]:
        return re.findall(r"^cancelled (\S+) after", cpp_server.log(), re.MULTILINE)

    before = len(ended())
    for _ in range(3):
        with cpp.stream("Hello", **ENDLESS) as stream:
            next(iter(stream))
    wait(lambda: len(ended()) == before + 3)
    for name in ended()[before:]:
        log = cpp_server.log()
        (stopped,) = re.findall(rf"^stop {name} after (\d+)", log, re.MULTILINE)[:1]
        (finished,) = re.findall(rf"^cancelled {name} after (\d+)", log, re.MULTILINE)
        assert int(finished) - int(stopped) <= 2


def test_text_and_pictures_share_the_blocks_of_a_system_prompt(cpp: Client) -> None:
    system = {
        "role": "system",
        "content": "You answer questions about devices, one at a time, and say so. " * 4,
    }
    text = cpp.chat([system, user(said("Hello"))], max_tokens=4)
    assert text.usage.cached_tokens == 0
    picture = cpp.chat([system, user(IMAGE, said("?"))], images=[png(40, 60, 90)], max_tokens=4)
    assert picture.usage.cached_tokens >= 32
    again = cpp.chat([system, user(IMAGE, said("?"))], images=[png(40, 60, 91)], max_tokens=4)
    assert again.usage.cached_tokens == picture.usage.cached_tokens  # another picture of that size


def test_what_the_engine_cannot_hold_is_refused_before_it(cpp: Client) -> None:
    with pytest.raises(PromptTooLong):
        cpp.chat("word " * 4000, max_tokens=4)
    with pytest.raises(InvalidOption, match=r"min_p.*0 on TensorRT-LLM"):
        cpp.chat("Hello", min_p=0.1)


def test_an_adapter_is_sent_when_the_backend_does_not_hold_it(cpp: Client, cpp_server: Server) -> None:
    def put() -> list[str]:
        return re.findall(r"^adapter (\d) put", cpp_server.log(), re.MULTILINE)

    plain = cpp.chat("Hello", max_tokens=8)
    for name in ("phones", "phones", "laptops", "laptops", "phones"):  # the stand-in holds one
        reply = cpp.chat("Hello", max_tokens=8, lora_name=name)
        assert list(reply.token_ids) == [ADAPTERS[name], *plain.token_ids[: len(reply.token_ids) - 1]]
    wait(lambda: len(put()) >= 3)
    assert put() == ["1", "2", "1"]
    with pytest.raises(InvalidOption, match=r"lora_name.*tablets.*phones, laptops"):
        cpp.chat("Hello", lora_name="tablets")


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], bool, str]] = {
    "no cos and sin": (lambda t: t.pop("mrope_rotary_cos_sin"), True, "mrope_rotary_cos_sin is missing"),
    "no delta": (lambda t: t.pop("mrope_position_deltas"), True, "mrope_position_deltas is missing"),
    "cos and sin of another length": (
        lambda t: t.update(mrope_rotary_cos_sin=t["mrope_rotary_cos_sin"][:, :-2]), True, "values, not",
    ),
    "more rows than a slot": (
        lambda t: t.update(prompt_embedding_table=np.zeros((1, 50_000, t["prompt_embedding_table"].shape[2]), np.int16)),
        True, "50000 rows",
    ),
    "an extra id too few": (
        lambda t: t.update(prompt_table_extra_ids=t["prompt_table_extra_ids"][:, 1:]), False, "extra ids must be provided",
    ),
    "an end id beyond the vocabulary": (lambda t: t.update(end_id=np.array([[1 << 30]], np.int32)), False, "acceptable range"),
    "a prompt beyond the engine": (
        lambda t: t.update(input_ids=np.zeros((1, 5000), np.int32)), False, "exceeds maximum input length",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_why_the_ensemble_checks_before_the_backend(
    case: str, cpp: Client, cpp_server: Server, cpp_engines: Path
) -> None:
    """Some wrong tensors end every request in flight, so none of them may come from the ensemble."""
    spoil, ends_all, words = WRONG[case]
    manifest = Manifest.read(cpp_engines)
    tensors = direct(manifest)
    spoil(tensors)
    loopback = Loopback(cpp_server.grpc_url)
    model = contract(manifest.target, manifest.table_dtype)[LANGUAGE_MODEL]
    with cpp.stream("Hello", **ENDLESS) as stream:
        chunks = iter(stream)
        next(chunks)
        (error,) = loopback.call(model, case, tensors, {})
        assert words in str(error)
        if ends_all:
            with pytest.raises(Interrupted, match="log says why"):
                list(chunks)
        else:
            for _ in range(3):
                next(chunks)
    loopback.close()
    assert cpp.chat("Hello", max_tokens=4).token_ids


def direct(manifest: Manifest) -> dict[str, Any]:
    """A right request of ten text tokens to the language model itself."""
    rows, text, length = manifest.rows_per_visual_token, manifest.text, 10
    return {
        "input_ids": np.arange(60, 60 + length, dtype=np.int32)[None],
        "input_lengths": np.array([[length]], np.int32),
        "request_output_len": np.array([[4]], np.int32),
        "end_id": np.array([[manifest.tokens.eos[0]]], np.int32),
        "prompt_table_extra_ids": np.zeros((1, length), np.uint64),
        "mrope_rotary_cos_sin": np.ones((1, manifest.limits.max_seq_len * text.head_dim), np.float32),
        "mrope_position_deltas": np.array([[0]], np.int64),
        "streaming": np.array([[True]]),
        "prompt_embedding_table": np.zeros((1, rows, text.hidden_size), np.int16),
    }


def wait(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
