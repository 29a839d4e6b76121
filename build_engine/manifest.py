"""engine_manifest.json: what the engines were built from, what they hold, and how to check both.

Every server model reads it at load. It is the only place where facts of the checkpoint cross from build to serving.

Layout of an engine directory::

    engine_manifest.json
    checkpoint/        tokenizer.json, tokenizer_config.json, chat_template.jinja, config.json, generation_config.json,
                       preprocessor_config.json, video_preprocessor_config.json (copied unchanged)
    vision_encoder/    model.xml + model.bin (openvino), model.onnx; model.plan (tensorrt-llm)
    language_model/    model.xml + model.bin (openvino); config.json + rank0.engine, ... (tensorrt-llm)
    adapters/NAME/     model.lora_weights.npy, model.lora_config.npy (tensorrt-llm, adapters chosen at run time)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE_NAME = "engine_manifest.json"
SCHEMA = 1
TOKENS_PER_BLOCK: Final = 32
"""Tokens of one block of the KV cache, on both targets."""


class ManifestError(ValueError):
    """The engine directory is missing, incomplete, changed, or from another version of this software."""


@dataclass(frozen=True)
class VisionFacts:
    """Facts of the vision tower. Pixels are normalised in the engine: (x * rescale_factor - mean) / std."""

    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    in_channels: int
    hidden_size: int
    num_heads: int
    depth: int
    num_position_embeddings: int
    out_hidden_size: int
    deepstack_levels: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    rescale_factor: float
    rope_theta: float = 10000.0

    @property
    def patch_values(self) -> int:
        """K: uint8 values of one patch."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True)
class TextFacts:
    """Facts of the language model. `inv_freq` (head_dim / 2): float32 rotary frequencies as transformers
    computes them; empty means: from rope_theta, which may differ from transformers in a last bit.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float
    mrope_section: tuple[int, int, int]
    max_position_embeddings: int
    inv_freq: tuple[float, ...] = ()


@dataclass(frozen=True)
class TokenIds:
    """Special token ids. `eos` holds every id that ends an answer (generation_config.json), first one first."""

    eos: tuple[int, ...]
    pad: int
    image: int
    video: int
    vision_start: int
    vision_end: int


@dataclass(frozen=True)
class Limits:
    """What the engines were built to hold, in tokens and sequences."""

    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    max_visual_tokens: int


@dataclass(frozen=True)
class Manifest:
    """The whole manifest.

    Attributes:
        target: "openvino" or "tensorrt-llm".
        weights: how the weights are stored, as `--weights` spells it.
        files: each file of the directory (relative) to its sha256.
        table_dtype: type of the prompt embedding table, as Triton spells it: FP32 (openvino), BF16 or FP16.
        adapters: names of the LoRA adapters that a request may choose; the task id is the place in this list + 1.
    """

    target: str
    weights: str
    checkpoint_hash: str
    engine_hash: str
    vision: VisionFacts
    text: TextFacts
    tokens: TokenIds
    limits: Limits
    versions: dict[str, str]
    files: dict[str, str]
    table_dtype: str = "FP32"
    adapters: tuple[str, ...] = ()
    schema: int = SCHEMA

    @property
    def rows_per_visual_token(self) -> int:
        """1 + D: rows of the prompt embedding table that a visual token owns."""
        return 1 + self.vision.deepstack_levels

    def write(self, directory: Path) -> None:
        """Write the manifest into an engine directory."""
        text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"
        (directory / FILE_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, directory: Path, check_files: bool = False) -> Manifest:
        """Read and check a manifest. `check_files` also compares every file's sha256 (slow on big engines)."""
        path = directory / FILE_NAME
        if not path.is_file():
            raise ManifestError(
                f"{directory} is not an engine directory: {FILE_NAME} is missing. "
                f"Build one with: python -m build_engine CHECKPOINT --target openvino --output {directory}"
            )
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if plain.get("schema") != SCHEMA:
            raise ManifestError(
                f"{path}: schema {plain.get('schema')!r}, this version reads {SCHEMA}; rebuild"
            )
        manifest = cls(
            **{
                **plain,
                "vision": VisionFacts(**_tuples(plain["vision"])),
                "text": TextFacts(**_tuples(plain["text"])),
                "tokens": TokenIds(**_tuples(plain["tokens"])),
                "limits": Limits(**plain["limits"]),
                "adapters": tuple(plain.get("adapters", ())),
            }
        )
        for name, digest in manifest.files.items():
            file = directory / name
            if not file.is_file():
                raise ManifestError(f"{file} is missing although {FILE_NAME} lists it; rebuild the engines")
            if check_files and sha256(file) != digest:
                raise ManifestError(
                    f"{file} was changed after the build (sha256 differs); rebuild the engines"
                )
        return manifest


def sha256(path: Path) -> str:
    """Hex sha256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _tuples(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
