"""Checkpoints to measure on: the demo's, and real text shapes with random weights, written without a download.

It knows shapes and files. The vision tower of a random checkpoint is tiny: what is measured here never runs it, and a
real one would only take memory. Speed does not depend on the values of weights, so random ones measure the real shape.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

DEMO: Final = Path(__file__).parents[2] / "build_engine" / "demo" / "checkpoint"
SHAPES: Final[Mapping[str, dict[str, Any]]] = {
    "2b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28},
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 2048, "head_dim": 32,
             "num_attention_heads": 2, "num_key_value_heads": 1},
}  # fmt: skip
"""Text shapes: Qwen3-VL-2B's, Qwen3-0.6B's, and one for tests. What is not named is as in Qwen3-VL-2B."""
NAMES: Final = ("demo", *SHAPES)

_TEXT: Final = {
    "vocab_size": 151936,
    "head_dim": 128,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "max_position_embeddings": 262144,
}
_PIECE: Final = 1 << 24
_BUILDER: Final = (
    "build",
    "facts",
    "language_model",
    "manifest",
    "onnx_graph",
    "openvino_build",
    "shards",
    "vision",
    "weights",
)
"""Modules of build_engine that decide what an engine holds."""


def checkpoint(name: str, seed: int = 0, cache: Path | None = None) -> Path:
    """Directory of the checkpoint `name` (one of NAMES); a random one is written on first use.

    Args:
        name: "demo", or a shape of SHAPES (2b: 3.5 GB on disk).
        seed: of the random weights.
        cache: where random ones are kept; None: `cache_directory()`.

    Raises:
        ValueError: an unknown name.
    """
    if name == "demo":
        return DEMO
    if name not in SHAPES:
        raise ValueError(f"shape {name!r}; one of {', '.join(NAMES)} is known")
    directory = (cache or cache_directory()) / f"{name}-{seed}"
    if not (directory / "model.safetensors").is_file():
        _write(directory, SHAPES[name], seed)
    return directory


def cache_directory() -> Path:
    """Where random checkpoints and their engines are kept between runs."""
    return Path(tempfile.gettempdir()) / f"qwen3vl-bench-{os.getuid()}"


def _write(directory: Path, text: Mapping[str, Any], seed: int) -> None:
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    directory.mkdir(parents=True, exist_ok=True)
    for path in DEMO.iterdir():
        if path.suffix in {".json", ".jinja"} and path.name != "config.json":
            shutil.copyfile(path, directory / path.name)
    plain = _config(dict(_TEXT) | dict(text))
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**plain))
    shapes = {
        name: tuple(value.shape) for name, value in model.state_dict().items() if name != "lm_head.weight"
    }
    (directory / "config.json").write_text(json.dumps(plain, indent=2), encoding="utf-8")
    unfinished = directory / "model.safetensors.part"
    _write_weights(unfinished, shapes, seed)
    unfinished.rename(directory / "model.safetensors")


def _config(text: dict[str, Any]) -> dict[str, Any]:
    """The demo's config.json with another text part, and a vision tower of the least size that feeds it."""
    plain: dict[str, Any] = json.loads((DEMO / "config.json").read_text(encoding="utf-8"))
    half = text["head_dim"] // 2
    plain["text_config"] |= text
    plain["text_config"]["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [half - 2 * (half * 5 // 16), half * 5 // 16, half * 5 // 16],
        "mrope_interleaved": True,
    }
    plain["vision_config"] |= {
        "depth": 3, "hidden_size": 64, "num_heads": 2, "intermediate_size": 64, "num_position_embeddings": 16,
        "out_hidden_size": text["hidden_size"], "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    return plain


def _write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int) -> None:
    """A safetensors file of bfloat16 values, drawn piece by piece: memory stays at some 100 MB whatever the shape."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            left = math.prod(shape)
            norm = len(shape) == 1 and name.endswith("weight")
            scale = 0.1 if len(shape) == 1 else 0.4 if "embed" in name else 1.0 / math.prod(shape[1:]) ** 0.5
            while left:
                values = random.standard_normal(min(left, _PIECE), np.float32) * np.float32(
                    scale
                ) + np.float32(norm)
                file.write(
                    (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
                )  # the upper half is a bfloat16
                left -= len(values)


def engines(name: str, weights: str, seed: int = 0, cache: Path | None = None) -> Path:
    """Engine directory of `checkpoint(name)` with these weights, built on first use and again after a change of the
    builder; up to 16 sequences of 2,048 tokens, steps of 1,024.
    """
    from build_engine.build import build
    from build_engine.checkpoint import Checkpoint
    from build_engine.manifest import FILE_NAME
    from build_engine.openvino_build import OpenVino

    source = checkpoint(name, seed, cache)
    directory = (cache or cache_directory()) / f"{name}-{seed}-{weights}-{_builder()}"
    if not (directory / FILE_NAME).is_file():
        limits = {"max_batch_size": 16, "max_seq_len": 2048, "max_num_tokens": 1024}
        build(Checkpoint.read(source), directory, OpenVino(weights), limits, force=True)
    return directory


def _builder() -> str:
    """A short hash of all that decides what is built besides the checkpoint."""
    from importlib import metadata

    digest = hashlib.sha256(metadata.version("openvino").encode())
    for module in _BUILDER:
        digest.update((Path(__file__).parents[2] / "build_engine" / f"{module}.py").read_bytes())
    digest.update((DEMO / "model.safetensors").read_bytes())
    return digest.hexdigest()[:10]
