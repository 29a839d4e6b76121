"""Writes the text part of a Qwen3-VL checkpoint as a Qwen3ForCausalLM directory, the form that every peer reads.

It knows names and files. Positions are plain rotary ones, as those of text are; weights are the same bytes.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any, Final

_TEXT: Final = "model.language_model."
_PIECE: Final = 1 << 26
_ARCHITECTURE: Final = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "dtype": "bfloat16"}


def write(checkpoint: Path, directory: Path) -> Path:
    """Write `checkpoint` (of one model.safetensors file) to `directory`, unless it is there. Returns `directory`."""
    weights = directory / "model.safetensors"
    if weights.is_file():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    for path in checkpoint.iterdir():
        if path.name.startswith(("tokenizer", "generation_config")):
            shutil.copyfile(path, directory / path.name)
    plain = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps(_config(plain), indent=2), encoding="utf-8")
    unfinished = weights.with_suffix(".part")
    _copy(checkpoint / "model.safetensors", unfinished)
    unfinished.rename(weights)
    return directory


def _config(plain: dict[str, Any]) -> dict[str, Any]:
    text = dict(plain["text_config"])
    theta = text["rope_parameters"]["rope_theta"]
    # Readers differ in where they look for theta.
    rope = {"rope_theta": theta, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    # A longer limit only makes some of them reserve memory.
    return text | _ARCHITECTURE | rope | {"max_position_embeddings": 2048}


def _copy(source: Path, target: Path) -> None:
    """Copy the tensors of the text part; what they hold is not looked at."""
    with source.open("rb") as read, target.open("wb") as written:
        (size,) = struct.unpack("<Q", read.read(8))
        tensors = json.loads(read.read(size))
        kept = {name: facts for name, facts in tensors.items() if name.startswith(_TEXT)}
        header, offset = {}, 0
        for name, facts in kept.items():
            begin, end = facts["data_offsets"]
            moved = facts | {"data_offsets": [offset, offset + end - begin]}
            header[name.replace(_TEXT, "model.", 1)] = moved
            offset += end - begin
        text = json.dumps(header).encode()
        written.write(struct.pack("<Q", len(text)) + text)
        for facts in kept.values():
            begin, end = facts["data_offsets"]
            read.seek(8 + size + begin)
            for left in range(end - begin, 0, -_PIECE):
                written.write(read.read(min(left, _PIECE)))
