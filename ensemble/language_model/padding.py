"""Tokens that nobody asked for: they round up a step, so that the engine meets few different numbers of tokens, or are all of it.

It knows the arrays of a Batch. It does not know OpenVINO, which makes new code for each number of tokens that it has not
seen: for the demo model 6 to 18 ms, a few steps' worth, for every layer of every prompt of a new length, and memory
that stays (docs/decisions/0008). The added tokens are a sequence of their own that nobody reads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from build_engine.manifest import Manifest
from ensemble.language_model.batch import Batch
from ensemble.language_model.sequence import blocks_for

_Number = TypeVar("_Number", np.int32, np.float32)

_EXACT: Final = 16
"""Steps of no more tokens are left alone: most are decode steps, and decoding one token more costs most there."""
_STEPS: Final = 8
"""Sizes between one power of two and the next, so at most an eighth is added."""


def rounded(tokens: int) -> int:
    """The number of tokens to compute instead: the same up to 16, then one of eight sizes per power of two."""
    if tokens <= _EXACT:
        return tokens
    step = (1 << (tokens - 1).bit_length()) // 2 // _STEPS
    return -(-tokens // step) * step


def padded(batch: Batch, block: int) -> Batch:
    """The batch with as many tokens as `rounded` says; the same logits are wanted.

    Args:
        batch: a step's.
        block: a KV block that belongs to no sequence. All added tokens are alike and have the same position, so they all
            write the same keys and values there.
    """
    tokens = len(batch.input_ids)
    added = rounded(tokens) - tokens
    if not added:
        return batch
    blocks = blocks_for(added)
    return replace(
        batch,
        input_ids=_extended(batch.input_ids, added, 0),
        rotary_cos=_extended(batch.rotary_cos, added, 1),
        rotary_sin=_extended(batch.rotary_sin, added, 0),
        past_lens=_extended(batch.past_lens, 1, 0),
        subsequence_begins=_extended(batch.subsequence_begins, 1, tokens + added),
        block_indices=_extended(batch.block_indices, blocks, block),
        block_indices_begins=_extended(batch.block_indices_begins, 1, len(batch.block_indices) + blocks),
        max_context_len=np.array(max(int(batch.max_context_len), added), np.int32),
    )


def idle(tokens: int, block: int, manifest: Manifest) -> Batch:
    """A step of nobody's tokens, which write `block` as in `padded`."""
    rotary = np.ones((tokens, 1, manifest.text.head_dim), np.float32)
    return Batch(
        input_ids=np.zeros(tokens, np.int32),
        prompt_embedding_table=np.zeros(
            (manifest.rows_per_visual_token, manifest.text.hidden_size), np.float32
        ),
        rotary_cos=rotary,
        rotary_sin=np.zeros_like(rotary),
        past_lens=np.zeros(1, np.int32),
        subsequence_begins=np.array([0, tokens], np.int32),
        block_indices=np.full(blocks_for(tokens), block, np.int32),
        block_indices_begins=np.array([0, blocks_for(tokens)], np.int32),
        max_context_len=np.array(tokens, np.int32),
        logits_index=np.array([tokens - 1], np.int32),
    )


def _extended(array: npt.NDArray[_Number], count: int, value: float) -> npt.NDArray[_Number]:
    return np.concatenate([array, np.full((count, *array.shape[1:]), value, array.dtype)])
