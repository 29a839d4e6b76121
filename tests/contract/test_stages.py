"""What the stages give and take are the contract's tensors, by name, data type and shape."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ensemble.contract import (
    CONTRACT,
    LANGUAGE_MODEL,
    PREPROCESSING,
    PROMPT,
    REPLY,
    TENSORRT_LLM,
    contract,
)
from ensemble.errors import EngineFailure
from ensemble.language_model.request import Output
from ensemble.postprocessing.answer import Generated
from ensemble.preprocessing.preprocessor import Prompt
from ensemble.triton_io import check, generated


def test_preprocessing_makes_exactly_the_tensors_of_both_targets() -> None:
    made = {field.name for field in dataclasses.fields(Prompt)}
    cpp = contract(TENSORRT_LLM, "BF16")[PREPROCESSING]
    assert made == {tensor.name for tensor in (*CONTRACT[PREPROCESSING].outputs, *cpp.outputs)}


def test_the_language_model_takes_every_tensor_of_the_prompt() -> None:
    taken = {tensor.name for tensor in CONTRACT[LANGUAGE_MODEL].inputs}
    assert {tensor.name for tensor in PROMPT} <= taken


def test_an_output_becomes_the_contract_s_tensors_and_reads_back() -> None:
    output = Output(token_ids=(5, 7), log_probs=(-0.5, -1.0), num_input_tokens=9, reused_blocks=2)
    tensors = generated(output)
    assert set(tensors) == {tensor.name for tensor in CONTRACT[LANGUAGE_MODEL].outputs}
    for name, array in tensors.items():
        check(CONTRACT[LANGUAGE_MODEL].output(name), array)
    assert Generated.read(tensors) == Generated([5, 7], [-0.5, -1.0], 9, 2)


@pytest.mark.parametrize(
    "array", [np.zeros((1, 1), np.int64), np.zeros((1,), np.int32), np.zeros((1, 2), np.int32)], ids=str
)
def test_an_array_that_breaks_the_contract_does_not_leave(array: np.ndarray) -> None:
    with pytest.raises(EngineFailure, match="input_lengths"):
        check(CONTRACT[PREPROCESSING].output("input_lengths"), array)


def test_names_of_the_reply_are_unique() -> None:
    assert len({tensor.name for tensor in REPLY}) == len(REPLY)
