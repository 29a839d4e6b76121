"""Tensors of the contract become a Request; whatever is wrong with them is said by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensemble.contract import PROMPT, PROMPT_EMBEDDING_TABLE
from ensemble.errors import EngineFailure, InvalidOption, PromptTooLong, RequestError
from ensemble.language_model.request import Request
from tests import fakes

MANIFEST = fakes.manifest()
OWNED = MANIFEST.rows_per_visual_token
POSITIONS, ROTARY = MANIFEST.limits.max_seq_len, MANIFEST.text.head_dim


def tensors(**changed: Any) -> dict[str, np.ndarray]:
    """A good request of 4 text and 2 visual tokens; None leaves a tensor out."""
    good = {
        "input_ids": np.array([[1, 2, 97, 97 + OWNED, 3, 4]], np.int32),
        "input_lengths": np.array([[6]], np.int32),
        "request_output_len": np.array([[10]], np.int32),
        "end_id": np.array([[fakes.END_ID]], np.int32),
        "pad_id": np.array([[94]], np.int32),
        "prompt_table_extra_ids": np.array([[0, 0, 9, 9, 0, 0]], np.uint64),
        "mrope_rotary_cos_sin": np.arange(POSITIONS * ROTARY, dtype=np.float32)[None],
        "mrope_position_deltas": np.array([[0]], np.int64),
        "streaming": np.array([[True]]),
        "exclude_input_in_output": np.array([[True]]),
        "return_log_probs": np.array([[True]]),
        "return_num_input_tokens": np.array([[True]]),
        "runtime_top_k": np.array([[0]], np.int32),
        "runtime_top_p": np.array([[0.9]], np.float32),
        "temperature": np.array([[0.5]], np.float32),
        "repetition_penalty": np.array([[1.1]], np.float32),
        "presence_penalty": np.array([[0.25]], np.float32),
        "frequency_penalty": np.array([[-0.5]], np.float32),
        "seed": np.array([[2**64 - 1]], np.uint64),
        "prompt_embedding_table": np.ones((1, 2 * OWNED, MANIFEST.text.hidden_size), np.float32),
    }
    assert good.keys() == {t.name for t in (*PROMPT, PROMPT_EMBEDDING_TABLE)}
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


def read(parameters: dict[str, Any] | None = None, **changed: Any) -> Request:
    return Request.from_tensors(tensors(**changed), parameters or {}, MANIFEST, request_id="r")


def test_every_tensor_finds_its_place() -> None:
    request = read({"min_p": "0.2", "fps": 2})
    assert request.request_id == "r"
    assert request.input_ids.tolist() == [1, 2, 97, 97 + OWNED, 3, 4]
    assert request.extra_ids.tolist() == [0, 0, 9, 9, 0, 0]
    assert request.prompt_embedding_table.shape == (2 * OWNED, MANIFEST.text.hidden_size)
    assert request.mrope_cos_sin.shape == (16, ROTARY // 2, 2)
    assert request.mrope_cos_sin[3, 1].tolist() == [3 * ROTARY + 2, 3 * ROTARY + 3]
    assert (request.max_new_tokens, request.end_ids) == (10, MANIFEST.tokens.eos)
    assert request.return_log_probs
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.min_p) == (0.5, 0, 0.2)
    assert sampling.top_p == pytest.approx(0.9)
    assert sampling.repetition_penalty == pytest.approx(1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.25, -0.5)
    assert sampling.seed == 2**64 - 1


def test_the_request_owns_its_arrays() -> None:
    given = tensors()
    request = Request.from_tensors(given, {}, MANIFEST, request_id="r")
    for array in given.values():
        array[...] = 0
    assert request.input_ids[0] == 1
    assert request.extra_ids[2] == 9
    assert request.mrope_cos_sin[3, 1, 0] == 3 * ROTARY + 2
    assert request.prompt_embedding_table.min() == 1


def test_sampling_tensors_may_be_left_out_and_then_the_choice_is_greedy() -> None:
    optional = [
        t.name for t in PROMPT if t.name.startswith(("runtime", "temp", "repet", "pres", "freq", "seed"))
    ]
    request = read(**dict.fromkeys([*optional, "end_id", "input_lengths", "return_log_probs"]))
    assert request.sampling.greedy
    assert not request.sampling.penalised
    assert request.end_ids == MANIFEST.tokens.eos
    assert not request.return_log_probs


def test_without_a_seed_every_request_draws_its_own() -> None:
    assert read(seed=None).sampling.seed != read(seed=None).sampling.seed


@pytest.mark.parametrize(("end_id", "expected"), [(95, (96, 95)), (7, (7,)), (-1, ())])
def test_another_end_id_replaces_those_of_the_manifest(end_id: int, expected: tuple[int, ...]) -> None:
    assert read(end_id=np.array([[end_id]], np.int32)).end_ids == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_ids", None),
        ("input_ids", np.array([[1, 2]], np.int64)),
        ("input_ids", np.array([1, 2], np.int32)),
        ("input_ids", np.zeros((1, 0), np.int32)),
        ("input_ids", np.zeros((2, 6), np.int32)),
        ("input_ids", np.array([[1, -1, 97, 100, 3, 4]], np.int32)),
        ("input_ids", np.array([[1, 2, 97, 97 + OWNED + 1, 3, 4]], np.int32)),
        ("input_lengths", np.array([[5]], np.int32)),
        ("request_output_len", None),
        ("request_output_len", np.array([[0]], np.int32)),
        ("request_output_len", np.array([[POSITIONS - 5]], np.int32)),
        ("prompt_table_extra_ids", None),
        ("prompt_table_extra_ids", np.zeros((1, 5), np.uint64)),
        ("prompt_table_extra_ids", np.zeros((1, 6), np.int64)),
        ("mrope_rotary_cos_sin", np.zeros((1, POSITIONS * ROTARY - 1), np.float32)),
        ("mrope_rotary_cos_sin", np.zeros((1, 15 * ROTARY), np.float32)),
        ("prompt_embedding_table", np.ones((1, 2 * OWNED, 3), np.float32)),
        ("prompt_embedding_table", np.ones((1, 2 * OWNED, 4), np.float16)),
        ("end_id", np.array([[97]], np.int32)),
        ("temperature", np.array([[np.nan]], np.float32)),
        ("temperature", np.array([[-1]], np.float32)),
        ("runtime_top_p", np.array([[1.5]], np.float32)),
        ("runtime_top_k", np.array([[-1]], np.int32)),
        ("repetition_penalty", np.array([[0]], np.float32)),
        ("presence_penalty", np.array([[np.inf]], np.float32)),
        ("streaming", np.array([[1]], np.int32)),
    ],
)
def test_a_wrong_tensor_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        read(**{field: value})
    assert caught.value.field == field


def test_a_prompt_beyond_the_engine_says_how_long_it_is_and_the_limit() -> None:
    with pytest.raises(PromptTooLong, match=r"257 tokens.*256"):
        read(input_ids=np.ones((1, 257), np.int32), input_lengths=np.array([[257]], np.int32))


def test_a_wrong_min_p_is_refused_as_the_option_it_is() -> None:
    with pytest.raises(InvalidOption):
        read({"min_p": 2.0})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_table_that_is_not_finite_is_the_encoders_fault(bad: float) -> None:
    table = np.ones((1, 2 * OWNED, MANIFEST.text.hidden_size), np.float32)
    table[0, 3, 2] = bad
    with pytest.raises(EngineFailure):
        read(prompt_embedding_table=table)
