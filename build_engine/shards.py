"""The weights of a checkpoint: safetensors files, read lazily through a memory map.

It knows the file format and the shard index; it does not know what a tensor means. Neither torch nor the
safetensors package is needed: the latter cannot give bfloat16 to numpy, and most checkpoints are bfloat16.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engine.section import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: file, data type as safetensors spells it, shape, first byte."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


class Shards:
    """All tensors of a checkpoint directory, by name."""

    def __init__(self, directory: Path) -> None:
        """Read the headers of every file; CheckpointError names a missing, cut or foreign file."""
        self.files = _find(directory)
        self._tensors: dict[str, StoredTensor] = {}
        for file in self.files:
            self._tensors.update(read_header(file))

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def stored(self, name: str) -> StoredTensor:
        """Where `name` lies; CheckpointError if no file has it."""
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointError(
                f"tensor {name!r} is in none of the {len(self.files)} weight files; "
                "is the download complete, and is this a Qwen3-VL checkpoint without adapters?"
            ) from None

    def check(self, expected: dict[str, tuple[int, ...]]) -> None:
        """CheckpointError when a tensor of `expected` (name to shape) is missing or has another shape or
        type.
        """
        for name, shape in expected.items():
            stored = self.stored(name)
            if stored.shape != shape:
                raise CheckpointError(
                    f"tensor {name!r} in {stored.file.name} has shape {list(stored.shape)}, "
                    f"but config.json asks for {list(shape)}"
                )
            if stored.dtype not in _ITEM_BYTES:
                raise CheckpointError(
                    f"tensor {name!r} in {stored.file.name} is stored as {stored.dtype}; build from a "
                    f"checkpoint with {', '.join(_ITEM_BYTES)} weights (quantised ones cannot be)"
                )

    def bits(self, name: str) -> npt.NDArray[np.uint16] | None:
        """A bfloat16 tensor as raw bits without a copy, or None when it is stored in another type."""
        stored = self.stored(name)
        return map_tensor(stored, np.uint16) if stored.dtype == "BF16" else None

    def float32(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor as float32, in its own shape; exact for every stored type but float64."""
        stored = self.stored(name)
        if stored.dtype == "BF16":
            return widen_bfloat16(map_tensor(stored, np.uint16))
        kind = {"F64": np.float64, "F32": np.float32, "F16": np.float16}[stored.dtype]
        return map_tensor(stored, kind).astype(np.float32)


def map_tensor(stored: StoredTensor, dtype: Any) -> npt.NDArray[Any]:
    """The values of a tensor as they lie in the file, read-only."""
    return np.memmap(stored.file, dtype, mode="r", offset=stored.offset, shape=stored.shape or (1,))


def _find(directory: Path) -> tuple[Path, ...]:
    index = directory / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{index} is not a safetensors index ({error!r})") from error
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{len(missing)} of {len(names)} shards are missing in {directory}: "
                f"{', '.join(missing[:5])}; finish the download"
            )
        return tuple(directory / name for name in names)
    if (directory / SINGLE).is_file():
        return (directory / SINGLE,)
    raise CheckpointError(
        f"{directory} holds neither {SINGLE} nor {INDEX}; only safetensors weights are read"
    )


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Where each tensor of a safetensors file lies; CheckpointError if the file is none, or cut."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(f"{file} is not a safetensors file (a Git LFS pointer, or a cut download?)")
        try:
            header: dict[str, Any] = json.loads(opened.read(length))
        except ValueError as error:
            raise CheckpointError(f"{file} has a broken safetensors header ({error})") from error
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < end:
        raise CheckpointError(
            f"{file} is cut short: {size} bytes, its header speaks of {end}; download it again"
        )
    return {
        name: StoredTensor(file, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def round_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widen_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """The numbers that these bits of bfloat16 are, in the same shape."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
