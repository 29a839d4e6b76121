"""The graph code, imported on the strict stand-in."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

import build_engine.trtllm
from tests.trtllm import strict_tensorrt_llm

_MODEL = "build_engine.trtllm.model"


@pytest.fixture
def model_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A fresh build_engine.trtllm.model, so that a test may change it; `tensorrt_llm` is the stand-in meanwhile."""
    for name, module in strict_tensorrt_llm.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    assert _MODEL not in sys.modules, "it was imported without the stand-in"
    yield importlib.import_module(_MODEL)
    del sys.modules[_MODEL], build_engine.trtllm.model


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The matrices are tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
