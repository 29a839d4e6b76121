"""A checkpoint of the same widths as another one, but of two layers and random weights: its engines build in a minute.

It reads and writes safetensors and config.json only, so it does not depend on the version of transformers.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

LAYERS = 2
_NUMBERED = re.compile(r"\.(?:layers|blocks|deepstack_merger_list)\.(\d+)\.")


def write_small(checkpoint: Path, directory: Path, seed: int = 0) -> Path:
    """Write the small checkpoint; returns its directory.

    Decoder layers and tower blocks are cut to LAYERS, DeepStack levels to as many at most, so that each level has its layer.
    """
    directory.mkdir(parents=True)
    for file in checkpoint.iterdir():
        if (
            file.is_file()
            and file.suffix in (".json", ".jinja", ".txt")
            and not file.name.endswith(".index.json")
        ):
            shutil.copyfile(file, directory / file.name)
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    levels = min(LAYERS, len(config["vision_config"]["deepstack_visual_indexes"]))
    config["text_config"]["num_hidden_layers"] = LAYERS
    config["vision_config"] |= {"depth": LAYERS, "deepstack_visual_indexes": list(range(levels))}
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: _drawn(name, shape, generator) for name, shape in _shapes(checkpoint, levels)}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def _shapes(checkpoint: Path, levels: int) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of every tensor that stays."""
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                numbered = _NUMBERED.search(name)
                kept = levels if "deepstack_merger_list" in name else LAYERS
                if numbered is None or int(numbered[1]) < kept:
                    yield name, tensors.get_slice(name).get_shape()


def _drawn(name: str, shape: list[int], generator: torch.Generator) -> torch.Tensor:
    """Norms near one, biases near zero, matrices that keep the size of what goes through them."""
    noise = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        drawn = noise / (noise[0].numel() ** 0.5)
    elif name.endswith("norm.weight") or re.search(r"norm\d?\.weight$", name):
        drawn = 1 + 0.1 * noise
    else:
        drawn = 0.1 * noise
    return drawn.to(torch.bfloat16)
