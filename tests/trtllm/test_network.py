"""The DeepStack lookup of build_engine/trtllm/model.py in a real strongly typed network, compiled by TensorRT-RTX."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import tensorrt_rtx as trt

from tests.trtllm.deepstack_network import Network, Tensor

VOCAB_SIZE, HIDDEN_SIZE, ROWS, TOKENS = 151936, 256, 4096, 512
LEVELS = 3


@pytest.fixture
def network(model_module: ModuleType) -> Network:
    """`model_module` calls this network's operations."""
    made = Network()
    for operation in ("cast", "embedding", "expand", "shape", "unsqueeze", "where"):
        setattr(model_module, operation, getattr(made, operation))
    return made


def deepstack(model_module: ModuleType, network: Network, dtype: Any, change: Any = None) -> Tensor:
    """What LEVELS decoder layers add to the hidden states that come in."""
    ids = network.input("input_ids", trt.int32, (1,), (TOKENS,))
    table = network.input("prompt_embedding_table", dtype, (1, HIDDEN_SIZE), (ROWS, HIDDEN_SIZE))
    tasks = network.input("tasks", trt.int32, (1,), (TOKENS,))
    rows_per_slot = network.input("prompt_vocab_size", trt.int32, (1,), (1,))
    hidden_states = network.input("hidden_states", dtype, (1, HIDDEN_SIZE), (TOKENS, HIDDEN_SIZE))
    rows = model_module.DeepstackRows(ids, table, tasks, rows_per_slot, VOCAB_SIZE)
    if change is not None:
        change(rows)
    for level in range(LEVELS):
        hidden_states = rows.add_to(hidden_states, level)
    return hidden_states


@pytest.mark.parametrize("dtype", [trt.bfloat16, trt.float16])
def test_it_compiles_and_keeps_the_engines_type(
    dtype: Any, model_module: ModuleType, network: Network
) -> None:
    output = deepstack(model_module, network, dtype)
    assert output.dtype == dtype
    assert tuple(output.value.shape) == (-1, HIDDEN_SIZE)
    assert network.compile(output, "SM89") > 0, network.errors.said


@pytest.mark.parametrize("zero", [0, 0.0])
def test_tensorrt_itself_refuses_a_zero_of_another_type(
    zero: float, model_module: ModuleType, network: Network
) -> None:
    def spoil(rows: Any) -> None:
        rows._zero = network.constant(zero, trt.int32 if isinstance(zero, int) else trt.float32)

    output = deepstack(model_module, network, trt.bfloat16, spoil)
    assert network.compile(output, "SM89") == 0
    assert "select" in network.errors.said[0].lower(), network.errors.said
