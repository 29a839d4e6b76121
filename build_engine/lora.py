"""A LoRA adapter as PEFT writes it, and a checkpoint with the adapter added to its weights.

It knows PEFT's files and Qwen3-VL's layer names; it does not know engines, so a merged checkpoint builds for every
target. Anything that a plain LoRA merge would get wrong is refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from build_engine.checkpoint import Checkpoint
from build_engine.section import CheckpointError, Section
from build_engine.shards import Shards, StoredTensor, read_header, round_bfloat16, widen_bfloat16

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# What the modules were called where the adapter was trained: Qwen3VLForConditionalGeneration (transformers 4.57 and
# 5), Qwen3VLModel without its head, or the text half alone as Qwen3ForCausalLM.
_PREFIXES = (
    (re.compile(r"(model\.)?language_model\."), "model.language_model."),
    (re.compile(r"(model\.)?visual\."), "model.visual."),
    (re.compile(r"model\.(?=layers\.)"), "model.language_model."),
)
# Fields of PEFT's LoraConfig that change what a merge means; each must be empty or false.
_REFUSED = {
    "use_dora": "DoRA scales the merged weights",
    "use_qalora": "QALoRA pools the inputs",
    "use_bdlora": "block-diagonal factors are stored differently",
    "modules_to_save": "whole modules were trained beside the adapter",
    "trainable_token_indices": "embedding rows were trained beside the adapter",
    "target_parameters": "parameters are adapted that are no linear layers",
    "alpha_pattern": "lora_alpha differs from module to module",
    "layer_replication": "the adapter belongs to a deeper network",
    "alora_invocation_tokens": "the adapter is active for a part of the prompt only",
    "arrow_config": "the adapter is routed from token to token",
    "monteclora_config": "the adapter is sampled",
    "velora_config": "the adapter is stored differently",
    "lora_bias": "biases were trained with the adapter",
    "fan_in_fan_out": "weights are stored transposed",
}
# These initialisations move a part of the base weights into the adapter, so it only fits a changed base.
_REBASING = ("pissa", "olora", "corda", "loftq", "lora_ga")


class AdapterError(CheckpointError):
    """The adapter cannot be used with this checkpoint: what is wrong, where, and what to do."""


@dataclass(frozen=True)
class LowRank:
    """The adapter of one matrix: names of A [rank, in] and B [out, rank] in the adapter's file, and the factor.

    The matrix becomes W + scaling * B A.
    """

    down: str
    up: str
    rank: int
    scaling: float


@dataclass(frozen=True)
class Adapter:
    """A checked adapter: for each adapted tensor of the checkpoint, its factors."""

    directory: Path
    matrices: dict[str, LowRank]
    weights: Shards

    @classmethod
    def read(cls, directory: Path, checkpoint: Checkpoint) -> Adapter:
        """Read and check an adapter directory; AdapterError says what does not fit `checkpoint`."""
        if not directory.is_dir():
            raise AdapterError(
                f"{directory} is not a directory; give the path that PEFT saved the adapter to"
            )
        if not (directory / CONFIG).is_file():
            raise AdapterError(
                f"{directory / CONFIG} is missing; give the path that PEFT saved the adapter to"
            )
        config = Section.read(directory / CONFIG)
        _check_config(config)
        weights = _AdapterFile(directory / WEIGHTS)
        adapter = cls(directory, _pair_up(weights, config, checkpoint), weights)
        if not adapter.matrices:
            raise AdapterError(f"{directory / WEIGHTS} adapts no layer")
        return adapter

    def factors(self, name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """A [rank, in] and scaling * B [out, rank] of the tensor `name`, float32."""
        made = self.matrices[name]
        return self.weights.float32(made.down), self.weights.float32(made.up) * np.float32(made.scaling)

    def delta(self, name: str) -> npt.NDArray[np.float32]:
        """What is added to the tensor `name`: float32 [out, in], computed in PEFT's order."""
        made = self.matrices[name]
        product = self.weights.float32(made.up) @ self.weights.float32(made.down)
        return np.asarray(product * np.float32(made.scaling), np.float32)


def merge(checkpoint: Checkpoint, adapter: Path) -> Checkpoint:
    """The checkpoint with the adapter of directory `adapter` added to its weights.

    Sums are made when a tensor is read, in float32, and rounded once to the type that the checkpoint stores: the bits of
    PEFT's `merge_and_unload()`. May be repeated with further adapters. AdapterError when the adapter does not fit.
    """
    return replace(checkpoint, shards=MergedShards(checkpoint.shards, Adapter.read(adapter, checkpoint)))


class MergedShards(Shards):
    """Shards whose adapted tensors come out merged. The content hash covers the adapter's files too."""

    def __init__(self, base: Shards, adapter: Adapter) -> None:
        self.files = (*base.files, adapter.directory / CONFIG, *adapter.weights.files)
        self._base, self._adapter = base, adapter

    def __contains__(self, name: str) -> bool:
        return name in self._base

    def stored(self, name: str) -> StoredTensor:
        """Shape and type of `name`. The values that lie there are those before the merge."""
        return self._base.stored(name)

    def bits(self, name: str) -> npt.NDArray[np.uint16] | None:
        """See `Shards.bits`; merged tensors are copies."""
        if name not in self._adapter.matrices or self.stored(name).dtype != "BF16":
            return self._base.bits(name)
        return round_bfloat16(self._sum(name))

    def float32(self, name: str) -> npt.NDArray[np.float32]:
        """See `Shards.float32`."""
        if name not in self._adapter.matrices:
            return self._base.float32(name)
        dtype = self.stored(name).dtype
        if dtype == "BF16":
            return widen_bfloat16(round_bfloat16(self._sum(name)))
        if dtype == "F16":
            return self._sum(name).astype(np.float16).astype(np.float32)
        return self._sum(name)

    def _sum(self, name: str) -> npt.NDArray[np.float32]:
        return self._base.float32(name) + self._adapter.delta(name)


class _AdapterFile(Shards):
    """The one weight file of an adapter."""

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            other = file.with_suffix(".bin")
            hint = (
                f"; {other.name} is a pickle: save the adapter with safe_serialization=True" * other.is_file()
            )
            raise AdapterError(f"{file} is missing{hint}")
        self.files = (file,)
        self._tensors = read_header(file)

    def names(self) -> list[str]:
        return sorted(self._tensors)


def _check_config(config: Section) -> None:
    kind = config.plain.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{config.where}: peft_type {kind!r} is not supported, only 'LORA'")
    for field, meaning in _REFUSED.items():
        if config.plain.get(field):
            raise AdapterError(
                f"{config.where}: {field} is {config.plain[field]!r}: {meaning}, which cannot be merged here; merge the "
                "adapter with PEFT (merge_and_unload) and build from the result"
            )
    if config.plain.get("bias", "none") != "none":
        raise AdapterError(f"{config.where}: bias {config.plain['bias']!r} is not supported, only 'none'")
    start = config.plain.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_REBASING):
        raise AdapterError(
            f"{config.where}: init_lora_weights {start!r} changes the base weights; save the adapter with "
            "path_initial_model_for_weight_conversion, or merge it with PEFT"
        )


def _pair_up(weights: _AdapterFile, config: Section, checkpoint: Checkpoint) -> dict[str, LowRank]:
    found: dict[str, dict[str, str]] = {}
    for key in weights.names():
        match = _KEY.fullmatch(key)
        if match is None:
            raise AdapterError(
                f"{WEIGHTS}: tensor {key!r} is no lora_A or lora_B of a linear layer; merge the adapter with PEFT "
                "(merge_and_unload) and build from the result"
            )
        found.setdefault(_tensor_name(match["module"]), {})[match["side"]] = key
    shapes = checkpoint.vision_tensors() | checkpoint.text_tensors()
    return {name: _low_rank(name, sides, shapes, weights, config) for name, sides in sorted(found.items())}


def _tensor_name(module: str) -> str:
    for prefix, ours in _PREFIXES:
        if match := prefix.match(module):
            module = ours + module[match.end() :]
            break
    return f"{module}.weight"


def _low_rank(
    name: str,
    sides: dict[str, str],
    shapes: dict[str, tuple[int, ...]],
    weights: Shards,
    config: Section,
) -> LowRank:
    if len(sides) != 2:
        raise AdapterError(f"{WEIGHTS}: {next(iter(sides.values()))!r} has no partner lora_A or lora_B")
    shape = shapes.get(name)
    if shape is None or len(shape) != 2 or name.endswith(("embed_tokens.weight", "pos_embed.weight")):
        known = "no such tensor" if shape is None else "no linear layer"
        raise AdapterError(
            f"{WEIGHTS} adapts {name!r}, which is {known} of this checkpoint; was the adapter trained on another model?"
        )
    a, b = weights.stored(sides["A"]), weights.stored(sides["B"])
    rank = a.shape[0] if a.shape else 0
    if a.shape != (rank, shape[1]) or b.shape != (shape[0], rank) or rank == 0:
        raise AdapterError(
            f"{WEIGHTS}: lora_A {list(a.shape)} and lora_B {list(b.shape)} do not fit {name!r} {list(shape)}; was the "
            "adapter trained on another size of the model?"
        )
    weights.check({sides["A"]: a.shape, sides["B"]: b.shape})
    if rank != config.integer("r") and not config.plain.get("rank_pattern"):
        raise AdapterError(f"{config.where}: r is {config.plain['r']}, but {sides['A']!r} has rank {rank}")
    divisor = float(np.sqrt(rank)) if config.plain.get("use_rslora") else float(rank)
    return LowRank(sides["A"], sides["B"], rank, config.number("lora_alpha") / divisor)
