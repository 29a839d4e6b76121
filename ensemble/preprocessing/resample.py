"""Bicubic resize of uint8 frames as torch does it (antialias), in numpy, bit for bit.

transformers resizes videos with torchvision, which on a CPU hands uint8 frames to torch's fixed-point
kernel: one pass across, rounded to uint8, then one pass down; weights are int16 with as many fractional
bits as the largest of them leaves room for (aten/src/ATen/native/cpu/UpSampleKernel.cpp). Pillow has the
same passes, with 22 bits in int32 and other boundaries of the filter, and differs in up to a third of the
values.

The sums are products of whole numbers below 2^24 (or 2^53), so a float32 (float64) matrix product computes
them exactly in any order, and BLAS is far faster than integer code in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_CUBIC: Final = -0.5  # the coefficient of Keys' filter that antialiasing uses
_SUPPORT: Final = 2.0
_BLOCK: Final = (
    32  # outputs of one product; a dense block wastes little, as neighbours share most of their inputs
)


@dataclass(frozen=True)
class _Block:
    """`weights` [inputs, outputs] for outputs from `start` on, that read inputs from `source` on."""

    start: int
    source: int
    weights: NDArray[Any]


@dataclass(frozen=True)
class _Axis:
    """Fixed-point weights of one axis: sums are to be divided by 2^bits."""

    bits: int
    blocks: tuple[_Block, ...]


def resize_bicubic(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a planar frame [C,H,W] to [C,height,width]."""
    if width != frame.shape[2]:
        frame = _apply(frame, _axis(frame.shape[2], width), width)
    if height != frame.shape[1]:
        turned = _apply(frame.transpose(0, 2, 1), _axis(frame.shape[1], height), height)
        frame = turned.transpose(0, 2, 1)
    return frame


def _apply(frame: NDArray[np.uint8], axis: _Axis, size: int) -> NDArray[np.uint8]:
    """Resample the last axis of [C,A,B] to [C,A,size]."""
    rows = frame.reshape(-1, frame.shape[2])
    out = np.empty((len(rows), size), dtype=np.uint8)
    half, scale = 1 << (axis.bits - 1), 1.0 / (1 << axis.bits)
    for block in axis.blocks:
        inputs, outputs = block.weights.shape
        sums = rows[:, block.source : block.source + inputs].astype(block.weights.dtype) @ block.weights
        sums += half
        sums *= scale
        np.floor(sums, out=sums)
        np.clip(sums, 0, 255, out=sums)
        out[:, block.start : block.start + outputs] = sums
    return out.reshape(frame.shape[0], frame.shape[1], size)


@lru_cache(maxsize=32)
def _axis(inputs: int, outputs: int) -> _Axis:
    scale = inputs / outputs
    stretch = max(scale, 1.0)
    support = _SUPPORT * stretch
    centers = scale * (np.arange(outputs) + 0.5)
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + support + 0.5).astype(np.int64), inputs)
    taps = np.arange((last - first).max())
    weights = _keys((taps + first[:, None] - centers[:, None] + 0.5) * (1.0 / stretch))
    weights[taps >= (last - first)[:, None]] = 0.0
    weights /= _sum_in_order(weights)
    bits = _fraction_bits(weights.max())
    fixed = np.trunc(weights * (1 << bits) + np.where(weights < 0, -0.5, 0.5))
    exact = np.float32 if np.abs(fixed).sum(axis=1).max() * 255 + (1 << bits) < 1 << 24 else np.float64
    blocks = []
    for start in range(0, outputs, _BLOCK):
        stop = min(start + _BLOCK, outputs)
        source = int(first[start])
        dense = np.zeros((int(last[stop - 1]) - source, stop - start), dtype=exact)
        for output in range(start, stop):
            count = int(last[output] - first[output])
            offset = int(first[output]) - source
            dense[offset : offset + count, output - start] = fixed[output, :count]
        blocks.append(_Block(start, source, dense))
    return _Axis(bits, tuple(blocks))


def _keys(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    x, a = np.abs(distance), _CUBIC
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _sum_in_order(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row sums added up one by one as torch does; numpy's pairwise sum may round otherwise."""
    return np.cumsum(weights, axis=1)[:, -1:]


def _fraction_bits(largest: float) -> int:
    bits = 0
    while bits < 22 and int(0.5 + largest * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    return bits
