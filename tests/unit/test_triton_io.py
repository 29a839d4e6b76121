"""What leaves a model through the Python backend: numpy arrays and torch tensors, both held to the contract."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ensemble.contract import TENSORRT_LLM, VISION_ENCODER, contract
from ensemble.errors import EngineFailure
from ensemble.triton_io import TritonIO


class FakeTensor:
    """Remembers how it was made."""

    def __init__(self, name: str, array: Any, way: str = "numpy") -> None:
        self.name, self.array, self.way = name, array, way

    @classmethod
    def from_dlpack(cls, name: str, array: Any) -> FakeTensor:
        return cls(name, array, "dlpack")


PB_UTILS = SimpleNamespace(Tensor=FakeTensor, InferenceResponse=list)


def sent(table: Any, dtype: str) -> FakeTensor:
    io = TritonIO(PB_UTILS, contract(TENSORRT_LLM, dtype)[VISION_ENCODER])
    (tensor,) = io.response({"prompt_embedding_table": table})
    assert isinstance(tensor, FakeTensor)
    return tensor


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "BF16"), (torch.float16, "FP16")])
def test_a_torch_tensor_is_handed_on_where_it_lies(dtype: torch.dtype, name: str) -> None:
    table = torch.zeros((1, 4, 8), dtype=dtype)
    tensor = sent(table, name)
    assert tensor.way == "dlpack"
    assert tensor.array is table


def test_a_numpy_array_is_sent_contiguous() -> None:
    tensor = sent(np.zeros((1, 8, 4), np.float16).transpose(0, 2, 1), "FP16")
    assert tensor.way == "numpy"
    assert tensor.array.flags.c_contiguous


@pytest.mark.parametrize(
    "table",
    [torch.zeros((1, 4, 8)), torch.zeros((4, 8), dtype=torch.bfloat16), np.zeros((1, 4, 8), np.float16)],
    ids=["float32", "no batch", "numpy float16"],
)
def test_a_table_of_another_type_or_rank_does_not_leave(table: Any) -> None:
    with pytest.raises(EngineFailure, match=r"prompt_embedding_table.*the contract says BF16"):
        sent(table, "BF16")
