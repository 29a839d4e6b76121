"""Reading a checkpoint: both spellings of config.json, defaults that transformers leaves out, shards, data
types.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engine.checkpoint import Checkpoint, chat_template
from build_engine.facts import Deepstack
from build_engine.shards import Shards


@pytest.fixture
def checkpoint(tmp_path: Path, demo_checkpoint: Path) -> Path:
    def link_weights(source: str, target: str) -> object:
        return (
            os.symlink(source, target) if source.endswith(".safetensors") else shutil.copyfile(source, target)
        )

    return shutil.copytree(demo_checkpoint, tmp_path / "checkpoint", copy_function=link_weights)


def _edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_the_spelling_of_transformers_4_57_reads_as_that_of_5(checkpoint: Path) -> None:
    new = Checkpoint.read(checkpoint)

    def respell(config: dict[str, Any]) -> None:
        rope = config["text_config"].pop("rope_parameters")
        config["text_config"]["rope_theta"] = rope.pop("rope_theta")
        config["text_config"]["rope_scaling"] = rope
        config["vision_config"].pop("rope_parameters")
        config["vision_config"]["patch_size"] = [config["vision_config"]["patch_size"]] * 2

    _edit(checkpoint / "config.json", respell)
    old = Checkpoint.read(checkpoint)
    assert (old.text, old.vision, old.tokens) == (new.text, new.vision, new.tokens)


def test_ids_that_equal_the_defaults_may_be_left_out(checkpoint: Path) -> None:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    _edit(checkpoint / "config.json", lambda c: [c.pop(name) for name in names])
    with pytest.raises(ValueError, match="special token id is not below vocab_size"):
        Checkpoint.read(checkpoint)  # the defaults are those of the full vocabulary


def test_levels_are_ordered_by_block_and_keep_their_merger(checkpoint: Path) -> None:
    _edit(checkpoint / "config.json", lambda c: c["vision_config"].update(deepstack_visual_indexes=[3, 2]))
    assert Checkpoint.read(checkpoint).architecture.deepstack == (Deepstack(2, 1), Deepstack(3, 0))


def test_a_single_end_token_and_a_missing_generation_config(checkpoint: Path) -> None:
    both = Checkpoint.read(checkpoint).tokens.eos
    _edit(checkpoint / "generation_config.json", lambda c: c.update(eos_token_id=both[1]))
    assert Checkpoint.read(checkpoint).tokens.eos == both[1:]
    (checkpoint / "generation_config.json").unlink()
    assert Checkpoint.read(checkpoint).tokens.eos == both[:1]


def test_switched_off_normalisation_is_read_as_none(checkpoint: Path) -> None:
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        _edit(checkpoint / name, lambda c: c.update(do_normalize=False, do_rescale=False))
    vision = Checkpoint.read(checkpoint).vision
    assert (vision.image_mean, vision.image_std, vision.rescale_factor) == ((0.0,) * 3, (1.0,) * 3, 1.0)


def test_the_chat_template_is_found_in_each_of_its_homes(checkpoint: Path) -> None:
    text = chat_template(checkpoint)
    (checkpoint / "chat_template.jinja").unlink()
    _edit(checkpoint / "tokenizer_config.json", lambda c: c.update(chat_template=text))
    assert chat_template(checkpoint) == text
    _edit(checkpoint / "tokenizer_config.json", lambda c: c.pop("chat_template"))
    (checkpoint / "chat_template.json").write_text(json.dumps({"chat_template": text}), encoding="utf-8")
    assert chat_template(checkpoint) == text


def test_the_content_hash_notices_a_changed_weight_and_a_changed_setting(checkpoint: Path) -> None:
    first = Checkpoint.read(checkpoint).content_hash()
    _edit(checkpoint / "generation_config.json", lambda c: c.update(temperature=0.5))
    second = Checkpoint.read(checkpoint).content_hash()
    weights = checkpoint / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.unlink()
    weights.write_bytes(data)
    assert len({first, second, Checkpoint.read(checkpoint).content_hash()}) == 3


def test_every_data_type_is_read_exactly_and_shards_are_joined(tmp_path: Path) -> None:
    values = np.array([[1.0, -2.5], [0.15625, 3e4]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    exact = (bits.astype(np.uint32) << 16).view(np.float32)
    stored = {"F32": values, "F16": values.astype(np.float16), "F64": values.astype(np.float64), "BF16": bits}
    weight_map = {}
    for number, (dtype, array) in enumerate(stored.items()):
        name = f"model-{number}.safetensors"
        header = {
            "__metadata__": {"format": "pt"},
            dtype: {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, array.nbytes]},
        }
        text = json.dumps(header).encode()
        (tmp_path / name).write_bytes(struct.pack("<Q", len(text)) + text + array.tobytes())
        weight_map[dtype] = name
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    shards = Shards(tmp_path)
    for dtype in stored:
        expected = {"F16": values.astype(np.float16).astype(np.float32), "BF16": exact}.get(dtype, values)
        assert np.array_equal(shards.float32(dtype), expected), dtype
    assert np.array_equal(shards.bits("BF16"), bits)
    assert shards.bits("F32") is None
