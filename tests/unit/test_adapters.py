"""Names of LoRA adapters become the tensors of the C++ backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ensemble.adapters import CONFIG_FILE, DIRECTORY, WEIGHTS_FILE, Adapters, is_missing
from ensemble.contract import ENSEMBLE, TENSORRT_LLM, contract
from ensemble.errors import EngineFailure, InvalidOption

NAMES = ("phones", "laptops")


@pytest.fixture
def adapters(tmp_path: Path) -> Adapters:
    directory = tmp_path / DIRECTORY / "laptops"
    directory.mkdir(parents=True)
    np.save(directory / WEIGHTS_FILE, np.arange(24, dtype=np.uint16).reshape(1, 4, 6).view("V2"))
    np.save(directory / CONFIG_FILE, np.ones((1, 4, 3), np.int32))
    return Adapters(NAMES, tmp_path)


def test_the_task_id_is_the_place_in_the_manifest_plus_one(adapters: Adapters) -> None:
    assert [adapters.task(name)["lora_task_id"].tolist() for name in NAMES] == [[[1]], [[2]]]
    assert adapters.task("") == {}


def test_weights_go_out_as_the_contract_says(adapters: Adapters) -> None:
    tensors = adapters.with_weights("laptops")
    ensemble = contract(TENSORRT_LLM, "BF16")[ENSEMBLE]
    assert set(tensors) == {tensor.name for tensor in ensemble.inputs if tensor.name.startswith("lora")}
    assert tensors["lora_weights"].tobytes() == np.arange(24, dtype=np.uint16).tobytes()
    assert tensors["lora_config"].dtype == np.int32


@pytest.mark.parametrize("name", ["tablets", "Phones", "../phones"])
def test_an_unknown_name_is_refused(adapters: Adapters, name: str) -> None:
    with pytest.raises(InvalidOption, match=r"lora_name.*allowed: phones, laptops"):
        adapters.task(name)


def test_engines_without_adapters_say_so() -> None:
    with pytest.raises(InvalidOption, match="built without adapters"):
        Adapters((), Path("/nowhere")).check("phones")


@pytest.mark.parametrize(
    ("weights", "config"),
    [
        (np.zeros((1, 4, 6), np.float32), np.ones((1, 4, 3), np.int32)),
        (np.zeros((4, 6), np.float16), np.ones((1, 4, 3), np.int32)),
        (np.zeros((1, 4, 6), np.float16), np.ones((1, 5, 3), np.int32)),
    ],
    ids=["four bytes", "no batch", "another number of matrices"],
)
def test_files_that_hold_something_else_are_ours_to_blame(
    tmp_path: Path, weights: np.ndarray, config: np.ndarray
) -> None:
    directory = tmp_path / DIRECTORY / "phones"
    directory.mkdir(parents=True)
    np.save(directory / WEIGHTS_FILE, weights)
    np.save(directory / CONFIG_FILE, config)
    with pytest.raises(EngineFailure, match="adapter 'phones'"):
        Adapters(NAMES, tmp_path).with_weights("phones")


def test_the_backend_s_words_for_a_missing_adapter_are_known() -> None:
    words = "LoRA task 2 not found in cache. Please send LoRA weights with request"
    assert is_missing(
        f"in ensemble 'ensemble', Executor failed process requestId 7 due to the following error: {words}"
    )
    assert not is_missing("Cache is full. There are no done tasks to evict")
