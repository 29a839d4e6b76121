"""The whole way short of a GPU: our preprocessing, an emulation of TensorRT-LLM's runtime (tests/inflight_batch.py), and
build_engine/trtllm/model.py on the strict stand-in. The greedy tokens must be those of transformers' `generate`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from build_engine.checkpoint import Checkpoint
from build_engine.trtllm.build import _load, weights
from build_engine.trtllm.config import model_config
from build_engine.trtllm.options import EngineOptions
from tests.inflight_batch import Step
from tests.parity.test_prompt_table import CONVERSATIONS, LIMITS, World, check_answers, staggered
from tests.prompt_slots import Floats
from tests.trtllm import strict_tensorrt_llm as strict


class GraphDecoder:
    """A Decoder (tests/inflight_batch.py) made of the graph code."""

    def __init__(self, checkpoint: Path) -> None:
        found = Checkpoint.read(checkpoint)
        config = {**model_config(found, EngineOptions(), LIMITS.max_seq_len), "dtype": "float32"}
        self._model: Any = _load(weights(found, EngineOptions()), config, rank=0)
        strict.use_prompt_tuning(self._model)
        text = found.text
        self._shape = (text.num_hidden_layers, 2, text.num_key_value_heads, text.head_dim)

    def new_cache(self, positions: int) -> Floats:
        layers, both, heads, size = self._shape
        return torch.full((layers, both, heads, positions, size), torch.nan).numpy()

    @torch.no_grad()
    def forward(self, step: Step) -> Floats:
        counts = [count for _, count, _ in step.parts]
        # The emulation has already chosen each token's rotary row, so all sequences are given as if in context.
        rotary = np.zeros((len(counts), LIMITS.max_seq_len, *step.rotary.shape[1:]), np.float32)
        start = 0
        for place, (past, count, _) in enumerate(step.parts):
            rotary[place, past : past + count] = step.rotary[start : start + count]
            start += count
        caches = [
            [torch.from_numpy(cache[layer][:, :, :past].copy()) for past, _, cache in step.parts]
            for layer in range(self._shape[0])
        ]
        logits = self._model(
            _tensor(step.input_ids),
            use_cache=True,
            last_token_ids=_tensor(np.cumsum(counts, dtype=np.int32)),
            kv_cache_params=strict.KeyValueCacheParams(caches),
            attention_params=strict.AttentionParams(
                [(past, count) for past, count, _ in step.parts], len(counts)
            ),
            mrope_params=strict.MropeParams(
                _tensor(rotary.reshape(len(counts), -1)), _tensor(np.zeros((0, 1), np.int32))
            ),
            prompt_embedding_table=_tensor(step.prompt_embedding_table),
            prompt_tasks=_tensor(step.tasks),
            prompt_vocab_size=_tensor(np.array([step.prompt_vocab_size], np.int32)),
        )
        for layer, made in enumerate(caches):
            for (past, count, cache), now in zip(step.parts, made, strict=True):
                cache[layer][:, :, past : past + count] = now[:, :, past:].numpy()
        return np.asarray(logits.value.numpy())


def _tensor(values: Any) -> strict.Tensor:
    return strict.Tensor(torch.from_numpy(np.ascontiguousarray(values)))


@pytest.mark.usefixtures("model_module")
@pytest.mark.parametrize(("chunk", "reuse", "every"), [(None, False, 0), (7, True, 3)])
def test_requests_that_come_and_go_are_answered_as_transformers_does(
    chunk: int | None, reuse: bool, every: int, demo_checkpoint: Path, tmp_path: Path
) -> None:
    """`every`: steps between two arrivals; with 0 several prompts share a step."""
    world = World(demo_checkpoint, tmp_path)
    world.decoder = GraphDecoder(demo_checkpoint)  # type: ignore[assignment]
    asked = [world.tensors(conversation) for conversation in CONVERSATIONS]
    running = staggered(world.batch(chunk, reuse), asked, every)
    check_answers(world, list(CONVERSATIONS), running)
