"""Turns weight matrices into OpenVINO constants: float32, bfloat16, int8 or int4 with their scales.

It knows number formats, not networks. Quantisation is symmetric. The subgraphs are the ones that OpenVINO's
CPU plugin keeps compressed in memory: constant -> Convert -> Multiply(scale) -> MatMul.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import Type
from openvino import opset13 as ops

from build_engine.shards import Shards, round_bfloat16

SCHEMES: Final = ("f32", "bf16", "int8", "int4")
GROUP_SIZES: Final = (128, 64, 32, 16)
"""Values that share one int4 scale: the first that divides the width.
 Only powers of two: with any other size OpenVINO 2026.4.1 multiplies a single row (every decode step)
wrongly, by as much as the result itself, while several rows come out right. tests/unit/test_build_weights.py
would notice.
"""
_ROWS: Final = 32
"""Rows that are requantised at a time."""
BITS_PER_WEIGHT: Final = {"f32": 32.0, "bf16": 16.0, "int8": 8.0, "int4": 4.0 + 16 / 32}


class Weights:
    """Constants of one model, made from the shards of a checkpoint.

    Large constants share memory with numpy arrays (the bfloat16 ones with the checkpoint's own files), which
    must live until the model is saved. This object holds them.
    """

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self._alive: list[Any] = []

    def vector(self, name: str) -> ov.Node:
        """A norm's or bias's values, always float32."""
        return ops.constant(self.shards.float32(name))

    def matrix(self, name: str, scheme: str) -> ov.Node:
        """Float32 [out, in] node of a linear layer's weight, stored in `scheme`."""
        if scheme == "bf16" and (bits := self.shards.bits(name)) is not None:
            return self._bfloat16(bits)
        return self.compressed(self.shards.float32(name), scheme)

    def compressed(self, values: npt.NDArray[np.float32], scheme: str) -> ov.Node:
        """Float32 node of the [out, in] `values`, stored in `scheme`."""
        if scheme == "f32":
            return self._share(np.ascontiguousarray(values), Type.f32, values.shape)
        if scheme == "bf16":
            return self._bfloat16(round_bfloat16(values))
        if scheme == "int4" and group_size(values.shape[1]):
            return self._int4(values)
        if scheme in ("int8", "int4"):
            quantised, scale = quantise_int8(values)
            return ops.multiply(self._widen(quantised, Type.i8), ops.constant(scale))
        raise ValueError(f"weights {scheme!r}: one of {', '.join(SCHEMES)} is known")

    def rows(self, name: str, indices: ov.Node, scheme: str) -> ov.Node:
        """Float32 [n, in] rows of an embedding. Rows are gathered while compressed; only they are widened."""
        axis = ops.constant(np.int32(0))
        if scheme == "f32":
            return ops.gather(self.matrix(name, "f32"), indices, axis)
        if scheme == "bf16":
            bits = self.shards.bits(name)
            bits = round_bfloat16(self.shards.float32(name)) if bits is None else bits
            return ops.convert(ops.gather(self._share(bits, Type.bf16, bits.shape), indices, axis), Type.f32)
        quantised, scale = quantise_int8(self.shards.float32(name))
        rows = ops.convert(
            ops.gather(self._share(quantised, Type.i8, quantised.shape), indices, axis), Type.f32
        )
        return ops.multiply(rows, ops.gather(ops.constant(scale), indices, axis))

    def _bfloat16(self, bits: npt.NDArray[np.uint16]) -> ov.Node:
        return self._widen(bits, Type.bf16)

    def _int4(self, values: npt.NDArray[np.float32]) -> ov.Node:
        packed, scale = quantise_int4(values)
        groups, size = scale.shape[1], values.shape[1] // scale.shape[1]
        stored = self._share(packed.view(np.int8), Type.i4, (values.shape[0], groups, size))
        grouped = ops.multiply(ops.convert(stored, Type.f16), ops.constant(scale))
        shape = ops.constant(np.array(values.shape, np.int32))
        return ops.convert(ops.reshape(grouped, shape, False), Type.f32)

    def _widen(self, array: npt.NDArray[Any], kind: Type) -> ov.Node:
        return ops.convert(self._share(array, kind, array.shape), Type.f32)

    def _share(self, array: npt.NDArray[Any], kind: Type, shape: tuple[int, ...]) -> ov.Node:
        # A tensor over foreign memory does not keep it alive; a freed array would give silent nonsense.
        tensor = ov.Tensor(array, list(shape), kind)
        self._alive.append((array, tensor))
        return ov.op.Constant(tensor)


def quantise_int8(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """int8 [out, in] in -127..127 and float32 scale [out, 1] per output channel."""
    largest = np.maximum(values.max(axis=1, keepdims=True), -values.min(axis=1, keepdims=True))
    scale = largest / np.float32(127)
    scale[scale == 0] = 1
    steps = values / scale
    return np.rint(steps, out=steps).astype(np.int8), scale.astype(np.float32)


def quantise_int4(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """Packed int4 (first value in the low half byte) and float16 scale [out, groups, 1].

    The value of largest magnitude of a group maps to -8, the one end that has no twin, so the scale may be
    negative: all 16 steps are used.
    """
    out, width = values.shape
    size = group_size(width)
    if size is None:
        raise ValueError(f"width {width} is no multiple of {GROUP_SIZES[-1]}")
    groups = values.reshape(out, width // size, size)
    peak = np.take_along_axis(groups, np.abs(groups).argmax(axis=2, keepdims=True), axis=2)
    scale = (peak / np.float32(-8)).astype(np.float16)
    scale[scale == 0] = 1
    steps = np.clip(np.rint(groups / scale.astype(np.float32)), -8, 7).astype(np.int8).reshape(-1)
    low, high = steps[0::2] & 0xF, steps[1::2] & 0xF
    return (low | (high << 4)).astype(np.uint8), scale


def dequantise_int4(packed: npt.NDArray[np.uint8], scale: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Inverse of `quantise_int4`, but for what rounding lost: float32 [out, in]."""
    halves = packed.view(np.int8)
    values = np.empty((halves.size, 2), np.int8)
    np.left_shift(halves, 4, out=values[:, 0])
    np.right_shift(values[:, 0], 4, out=values[:, 0])  # shifted up and down again, a half byte keeps its sign
    np.right_shift(halves, 4, out=values[:, 1])
    out, groups, _ = scale.shape
    scaled = values.reshape(out, groups, -1).astype(np.float32)
    scaled *= scale.astype(np.float32)
    return scaled.reshape(out, -1)


def requantise_int4(
    packed: npt.NDArray[np.uint8], scale: npt.NDArray[np.float16]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """`quantise_int8` of what `quantise_int4` stored, some rows at a time: no float32 matrix leaves the caches of the cores."""
    out = len(scale)
    halves = packed.reshape(out, -1)
    values, channels = np.empty((out, 2 * halves.shape[1]), np.int8), np.empty((out, 1), np.float32)

    def fill(start: int) -> None:
        rows = slice(start, start + _ROWS)
        values[rows], channels[rows] = quantise_int8(dequantise_int4(halves[rows].reshape(-1), scale[rows]))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(fill, range(0, out, _ROWS)))
    return values, channels


def group_size(width: int) -> int | None:
    """The first of GROUP_SIZES that divides `width`; None: such a matrix is stored as int8."""
    return next((size for size in GROUP_SIZES if width % size == 0), None)
