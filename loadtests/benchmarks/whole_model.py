"""A whole Qwen3-VL with random weights: a text shape of `shapes` with the vision tower that belongs to it.

It knows files. The text weights are those of `shapes`, linked, so that both are written and kept once.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from build_engine.tower_shapes import random_tower
from loadtests.benchmarks import shapes

TOWERS: Final = {"demo": "demo", "2b": "2b"}
"""Text shape to vision tower (`build_engine.tower_shapes`)."""
_TEXT_FILE: Final = "text.safetensors"
_TOWER_FILE: Final = "tower.safetensors"
_INDEX: Final = "model.safetensors.index.json"


def checkpoint(name: str, cache: Path | None = None) -> Path:
    """Directory of the whole checkpoint `name` (a key of TOWERS); a random one is written on first use (2b: 4.3 GB).

    Raises:
        ValueError: an unknown name.
    """
    if name not in TOWERS:
        raise ValueError(f"shape {name!r}; one of {', '.join(TOWERS)} is known")
    text = shapes.checkpoint(name, cache=cache)
    if name == "demo":
        return text
    directory = text.with_name(f"{text.name}-whole")
    if not (directory / _INDEX).is_file():
        _write(text, TOWERS[name], directory)
    return directory


def engines(name: str, weights: str, cache: Path | None = None) -> Path:
    """Directory of the OpenVINO engines of a checkpoint, built on first use (2b: about a minute)."""
    from build_engine.build import build
    from build_engine.checkpoint import Checkpoint
    from build_engine.manifest import FILE_NAME
    from build_engine.openvino_build import OpenVino

    source = checkpoint(name, cache)
    directory = (cache or shapes.cache_directory()) / f"{name}-whole-{weights}"
    if not (directory / FILE_NAME).is_file():
        build(Checkpoint.read(source), directory, OpenVino(weights), {}, force=True)
    return directory


def _write(text: Path, tower: str, directory: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from build_engine.shards import read_header

    directory.mkdir(parents=True, exist_ok=True)
    for path in text.iterdir():
        if path.suffix in {".json", ".jinja"}:
            shutil.copyfile(path, directory / path.name)
    config: dict[str, Any] = json.loads((text / "config.json").read_text(encoding="utf-8"))
    named = random_tower(tower)
    config["vision_config"] |= _vision_config(named, config["text_config"]["hidden_size"])
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    _link(text / "model.safetensors", directory / _TEXT_FILE)
    tensors = {}
    for tensor in named.vision_tensors():
        bits = named.shards.bits(tensor)
        assert bits is not None, "random towers are bfloat16"
        tensors[tensor] = torch.from_numpy(bits.view("int16")).view(torch.bfloat16)
    save_file(tensors, directory / _TOWER_FILE)
    files = dict.fromkeys(tensors, _TOWER_FILE)
    files |= {name: _TEXT_FILE for name in read_header(directory / _TEXT_FILE) if name not in files}
    (directory / _INDEX).write_text(json.dumps({"weight_map": files}), encoding="utf-8")


def _vision_config(tower: Any, hidden_size: int) -> dict[str, Any]:
    vision = tower.vision
    if vision.out_hidden_size != hidden_size:
        raise ValueError(
            f"a tower of {vision.out_hidden_size} values does not feed a text model of {hidden_size}"
        )
    return {
        "depth": vision.depth,
        "hidden_size": vision.hidden_size,
        "num_heads": vision.num_heads,
        "intermediate_size": tower.architecture.vision_intermediate_size,
        "num_position_embeddings": vision.num_position_embeddings,
        "out_hidden_size": vision.out_hidden_size,
        "deepstack_visual_indexes": [level.block for level in tower.architecture.deepstack],
    }


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
