"""The weights of a checkpoint whose linear layers are stored as 4-bit GPTQ.

It knows how GPTQ packs a matrix [out, in]: `qweight` int32 [in / 8, out], eight neighbouring inputs in a word, lowest bits
first; `qzeros` int32 [groups, out / 8], eight neighbouring outputs in a word, each less one; `scales` [groups, out]; `g_idx`
[in]. A value is scale * (q - zero - 1). Read as usual, a matrix comes out unpacked in float32, so such a checkpoint
builds for every target and every type; an engine with GPTQ weights takes the packed tensors as they are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from build_engine.section import CheckpointError, Section
from build_engine.shards import Shards, StoredTensor, map_tensor

if TYPE_CHECKING:  # Checkpoint.read opens these shards
    from build_engine.checkpoint import Checkpoint

BITS: Final = 4
GROUP_SIZE: Final = 128
_A_WORD = 32 // BITS


def check_config(config: Section) -> None:
    """CheckpointError unless quantization_config of config.json is a GPTQ that can be read."""
    q = config.section("quantization_config")
    method = q.plain.get("quant_method")
    rules = (
        (method == "gptq", f"quant_method {method!r} cannot be read, only 'gptq'; build from the unquantised checkpoint"),
        (q.plain.get("bits") == BITS, f"bits is {q.plain.get('bits')!r}; only {BITS} can be read"),
        (q.plain.get("group_size") == GROUP_SIZE,
         f"group_size is {q.plain.get('group_size')!r}; only {GROUP_SIZE} can be read"),
        (not q.plain.get("desc_act"),
         "desc_act is true: its columns are reordered, which TensorRT-LLM's loader cannot; quantise with desc_act=False"),
        (q.plain.get("checkpoint_format", "gptq") == "gptq",
         f"checkpoint_format {q.plain.get('checkpoint_format')!r} stores zero points differently; save as 'gptq'"),
    )  # fmt: skip
    for holds, message in rules:
        if not holds:
            raise CheckpointError(f"{q.where}: {message}")


def require_packed(checkpoint: Checkpoint) -> GptqShards:
    """The packed weights for an engine built with --weights gptq; CheckpointError when there are none."""
    shards = checkpoint.shards
    if not isinstance(shards, GptqShards):
        raise CheckpointError(
            "--weights gptq takes the packed weights of a GPTQ checkpoint as they are. Give such a checkpoint, without "
            "--merge-lora (adapters work at run time, with --lora), or choose --weights int4_awq"
        )
    unpacked = [
        name
        for name, shape in checkpoint.text_tensors().items()
        if len(shape) == 2 and ".layers." in name and not shards.is_packed(name)
    ]
    if unpacked:
        raise CheckpointError(
            f"--weights gptq: {len(unpacked)} matrices are not packed, {unpacked[0]!r} among them; an engine has one form "
            "for all. Quantise every linear layer of the decoder"
        )
    return shards


class GptqShards(Shards):
    """Shards in which a matrix `X.weight` may be stored as X.qweight, X.qzeros, X.scales and X.g_idx."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._packed = {
            f"{name.removesuffix('.qweight')}.weight" for name in self._tensors if name.endswith(".qweight")
        }
        for name in self._packed:
            self._check(name)

    def __contains__(self, name: str) -> bool:
        return name in self._packed or super().__contains__(name)

    def is_packed(self, name: str) -> bool:
        """Whether the matrix `name` is stored packed."""
        return name in self._packed

    def stored(self, name: str) -> StoredTensor:
        """See `Shards`. A packed matrix has the shape that it unpacks to, and the type of its scales."""
        if name not in self._packed:
            return super().stored(name)
        packed = self._part(name, "qweight")
        words, out = packed.shape
        return replace(packed, dtype=self._part(name, "scales").dtype, shape=(out, words * _A_WORD))

    def bits(self, name: str) -> npt.NDArray[np.uint16] | None:
        """See `Shards`; None for a packed matrix."""
        return None if name in self._packed else super().bits(name)

    def float32(self, name: str) -> npt.NDArray[np.float32]:
        """See `Shards`; a packed matrix is unpacked."""
        if name not in self._packed:
            return super().float32(name)
        parts = self.parts(name)
        stem = name.removesuffix(".weight")
        values = _unpack(parts[f"{stem}.qweight"].T)
        zeros = _unpack(parts[f"{stem}.qzeros"]).T + 1
        scales = parts[f"{stem}.scales"].astype(np.float32).T
        groups = (values.reshape(len(values), -1, GROUP_SIZE) - zeros[:, :, None]) * scales[:, :, None]
        return np.ascontiguousarray(groups.reshape(values.shape), np.float32)

    def parts(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """The tensors of the packed matrix `name` that TensorRT-LLM's loader asks for, under their own names: qweight and
        qzeros int32, scales float16 or float32.
        """
        stem = name.removesuffix(".weight")
        scales = super().float32(f"{stem}.scales")
        is_half = self._part(name, "scales").dtype == "F16"
        return {
            **{
                f"{stem}.{part}": map_tensor(self._part(name, part), np.int32)
                for part in ("qweight", "qzeros")
            },
            f"{stem}.scales": scales.astype(np.float16) if is_half else scales,
        }

    def _part(self, name: str, part: str) -> StoredTensor:
        return super().stored(f"{name.removesuffix('.weight')}.{part}")

    def _check(self, name: str) -> None:
        words, out = self._part(name, "qweight").shape
        groups = words * _A_WORD // GROUP_SIZE
        shapes = {"qzeros": (groups, out // _A_WORD), "scales": (groups, out)}
        for part, shape in shapes.items():
            if self._part(name, part).shape != shape:
                raise CheckpointError(
                    f"{name}: {part} has shape {list(self._part(name, part).shape)}, {list(shape)} is needed for groups of "
                    f"{GROUP_SIZE}"
                )
        order = f"{name.removesuffix('.weight')}.g_idx"
        if order in self._tensors:
            columns = np.arange(words * _A_WORD) // GROUP_SIZE
            if not np.array_equal(map_tensor(self._tensors[order], np.int32), columns):
                raise CheckpointError(
                    f"{order}: columns are reordered (desc_act), which TensorRT-LLM's loader cannot"
                )


def _unpack(words: npt.NDArray[np.int32]) -> npt.NDArray[np.int8]:
    """Eight values 0..15 of each word of [rows, n], lowest bits first: [rows, 8 n]."""
    shifts = np.arange(0, 32, BITS, dtype=np.uint32)
    values = (np.ascontiguousarray(words).view(np.uint32)[:, :, None] >> shifts) & 0xF
    return values.reshape(len(words), -1).astype(np.int8)
