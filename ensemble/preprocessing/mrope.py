"""Multimodal rotary positions: position ids of a prompt, and the cos/sin table that both engines read.

It knows where visual tokens stand and how large their grids are. Formulas: `get_rope_index` and the
interleaved `recomposition_frequencies` of transformers' modeling_qwen3_vl.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from build_engine.manifest import TextFacts
from ensemble.preprocessing.prompt import Span


def position_ids(length: int, spans: Sequence[Span]) -> tuple[NDArray[np.int64], int]:
    """Positions int64 [3,L] (time, height, width) of a prompt of `length` tokens, and the delta.

    Text counts up on all three axes. A grid of visual tokens has one time, and its rows and columns count
    from there; the text after it goes on at the largest of them plus one. delta = next position - L, never
    positive.
    """
    positions = np.empty((3, length), dtype=np.int64)
    token = position = 0
    for span in spans:
        text = span.start - token
        positions[:, token : span.start] = np.arange(position, position + text)
        position += text
        grid = positions[:, span.start : span.stop].reshape(3, span.height, span.width)
        grid[0] = position
        grid[1] = position + np.arange(span.height)[:, None]
        grid[2] = position + np.arange(span.width)
        token, position = span.stop, position + max(span.height, span.width)
    positions[:, token:] = np.arange(position, position + length - token)
    return positions, position - token


def inverse_frequencies(facts: TextFacts) -> NDArray[np.float32]:
    """float32 [R/2]: those of the manifest, else from rope_theta.

    Float32 powers differ in the last bit between libraries, and the product with a position of some
    thousands shows it. So a build stores what transformers computed; the fallback here rounds the float64
    power once.
    """
    if facts.inv_freq:
        return np.asarray(facts.inv_freq, dtype=np.float32)
    exponents = np.arange(0, facts.head_dim, 2, dtype=np.float32) / np.float32(facts.head_dim)
    powers = np.power(np.float64(facts.rope_theta), exponents.astype(np.float64)).astype(np.float32)
    frequencies: NDArray[np.float32] = np.float32(1.0) / powers
    return frequencies


class RotaryTable:
    """cos/sin of every position below P = max_seq_len, computed once; a request only gathers rows of it.

    That is enough for all three axes, as no position of a prompt exceeds its token index.
    """

    def __init__(self, facts: TextFacts, max_seq_len: int) -> None:
        angles = np.arange(max_seq_len, dtype=np.float32)[:, None] * inverse_frequencies(facts)  # [P,R/2]
        self._table: NDArray[np.float32] = np.stack((np.cos(angles), np.sin(angles)), axis=-1)  # [P,R/2,2]
        frequency = np.arange(angles.shape[1])
        _, height, width = facts.mrope_section
        self._height = np.flatnonzero((frequency % 3 == 1) & (frequency < 3 * height))
        self._width = np.flatnonzero((frequency % 3 == 2) & (frequency < 3 * width))

    def gather(self, positions: NDArray[np.int64], delta: int, count: int) -> NDArray[np.float32]:
        """float32 [count*R] as [position][R/2][cos,sin] for a prompt's positions [3,L]; count is from L to P.

        Rows from L on belong to the answer: row t has position t + delta. A preempted request that is
        computed again with its answer as prompt then stays right.
        """
        time, height, width = positions
        length = len(time)
        rows = np.empty((count, *self._table.shape[1:]), np.float32)
        np.take(self._table, time, axis=0, out=rows[:length])
        rows[length:] = self._table[length + delta : count + delta]
        visual = np.flatnonzero((time != height) | (time != width))[:, None]
        rows[visual, self._height] = self._table[height[visual], self._height]
        rows[visual, self._width] = self._table[width[visual], self._width]
        return rows.reshape(-1)
