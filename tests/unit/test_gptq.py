"""GPTQ checkpoints: packed here value by value, and read back as the weights that they stand for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engine.checkpoint import Checkpoint
from build_engine.gptq import GptqShards, check_config, require_packed
from build_engine.lora import merge
from build_engine.section import CheckpointError, Section
from build_engine.trtllm.build import weights
from build_engine.trtllm.options import EngineOptions
from tests.adapters import make_adapter, text_modules
from tests.checkpoints import make_checkpoint

GROUP = 128


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    text = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "head_dim": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    }
    made = make_checkpoint(tmp_path_factory.mktemp("plain"), text=text, vision={"out_hidden_size": 128})
    return Checkpoint.read(made)


@pytest.fixture(scope="module")
def packed(plain: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A GPTQ directory, and the matrices [out, in] that its words stand for."""
    directory = tmp_path_factory.mktemp("packed")
    for path in plain.served_files():
        shutil.copyfile(path, directory / path.name)
    tensors = load_file(plain.directory / "model.safetensors")
    random, expected = np.random.default_rng(0), {}
    for module in text_modules(plain):
        out, width = tensors.pop(f"{module}.weight").shape
        q = random.integers(0, 16, (width, out))
        zero = random.integers(0, 15, (width // GROUP, out))  # stored less one
        scale = random.uniform(0.001, 0.02, (width // GROUP, out)).astype(np.float16)
        group = np.arange(width) // GROUP
        expected[f"{module}.weight"] = (scale.astype(np.float32)[group] * (q - zero[group] - 1)).T
        qweight, qzeros = (
            np.zeros((width // 8, out), np.uint32),
            np.zeros((width // GROUP, out // 8), np.uint32),
        )
        for i in range(8):
            qweight |= (q[i::8] << (4 * i)).astype(np.uint32)
            qzeros |= (zero[:, i::8] << (4 * i)).astype(np.uint32)
        tensors |= {
            f"{module}.qweight": torch.from_numpy(qweight.view(np.int32)),
            f"{module}.qzeros": torch.from_numpy(qzeros.view(np.int32)),
            f"{module}.scales": torch.from_numpy(scale),
            f"{module}.g_idx": torch.from_numpy(group.astype(np.int32)),
        }
    save_file(tensors, directory / "model.safetensors")
    return directory, expected


def _checkpoint(plain: Checkpoint, directory: Path) -> Checkpoint:
    return replace(plain, directory=directory, shards=GptqShards(directory))


def test_packed_matrices_come_out_as_the_values_they_stand_for(
    plain: Checkpoint, packed: tuple[Path, dict[str, np.ndarray]]
) -> None:
    directory, expected = packed
    shards = GptqShards(directory)
    shards.check(plain.vision_tensors() | plain.text_tensors())
    for name, values in expected.items():
        made = shards.float32(name)
        assert made.dtype == np.float32
        assert np.abs(made - values).max() < 1e-6, name
        assert shards.bits(name) is None
        assert name in shards
    untouched = "model.language_model.embed_tokens.weight"
    assert np.array_equal(shards.bits(untouched), plain.shards.bits(untouched))


def test_the_loader_gets_the_packed_tensors_unchanged(
    plain: Checkpoint, packed: tuple[Path, dict[str, np.ndarray]]
) -> None:
    shards = require_packed(_checkpoint(plain, packed[0]))
    stored = load_file(packed[0] / "model.safetensors")
    for module in text_modules(plain):
        parts = shards.parts(f"{module}.weight")
        assert set(parts) == {f"{module}.{part}" for part in ("qweight", "qzeros", "scales")}
        for name, values in parts.items():
            assert values.dtype == stored[name].numpy().dtype
            assert np.array_equal(values, stored[name].numpy())


def test_a_gptq_directory_is_read_and_handed_over_packed(
    packed: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    directory = shutil.copytree(packed[0], tmp_path / "gptq")
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}
    (directory / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint.read(directory)
    tensors = weights(checkpoint, EngineOptions(weights="gptq"))
    stored = load_file(directory / "model.safetensors")
    for module in text_modules(checkpoint):
        assert f"{module}.weight" not in tensors
        for part in ("qweight", "qzeros", "scales"):
            assert torch.equal(tensors[f"{module}.{part}"], stored[f"{module}.{part}"])
    # Any other engine takes the values that they stand for.
    unpacked = weights(checkpoint, EngineOptions(weights="bf16"))
    for name, values in packed[1].items():
        assert np.abs(unpacked[name].numpy() - values).max() < 1e-6


def test_an_engine_of_gptq_weights_needs_them_all_packed_and_unmerged(
    plain: Checkpoint, packed: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    checkpoint = _checkpoint(plain, packed[0])
    with pytest.raises(CheckpointError, match="--weights gptq takes the packed weights"):
        require_packed(plain)
    adapter = make_adapter(tmp_path / "adapter", checkpoint, text_modules(checkpoint)[:1])
    with pytest.raises(CheckpointError, match="without --merge-lora"):
        require_packed(merge(checkpoint, adapter))
    tensors = load_file(packed[0] / "model.safetensors")
    module = text_modules(plain)[2]
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        tensors.pop(f"{module}.{part}")
    save_file(tensors | {f"{module}.weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"1 matrices are not packed, '{module}.weight'"):
        require_packed(_checkpoint(plain, tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.update({f"{m}.g_idx": t[f"{m}.g_idx"].flip(0)}), "columns are reordered"),
        (lambda t, m: t.update({f"{m}.scales": t[f"{m}.scales"][:, :-8].contiguous()}), "scales has shape"),
        (lambda t, m: t.update({f"{m}.qzeros": t[f"{m}.qzeros"].repeat(2, 1)}), "qzeros has shape"),
        (lambda t, m: t.pop(f"{m}.qzeros"), "qzeros' is in none"),
    ],
)
def test_packing_that_cannot_be_read_is_refused(
    change: Callable[[dict[str, torch.Tensor], str], Any], message: str, plain: Checkpoint,
    packed: tuple[Path, dict[str, np.ndarray]], tmp_path: Path,
) -> None:  # fmt: skip
    tensors = load_file(packed[0] / "model.safetensors")
    change(tensors, next(name for name in text_modules(plain) if name.endswith("1.mlp.down_proj")))
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        GptqShards(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quant_method": "awq"}, "quant_method 'awq' cannot be read, only 'gptq'"),
        ({"bits": 8}, "bits is 8; only 4"),
        ({"group_size": -1}, "group_size is -1; only 128"),
        ({"desc_act": True}, "desc_act is true"),
        ({"checkpoint_format": "gptq_v2"}, "checkpoint_format 'gptq_v2'"),
    ],
)
def test_other_quantisations_are_refused_by_field(fields: dict[str, Any], message: str) -> None:
    good = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    check_config(Section({"quantization_config": good}, "config.json"))
    with pytest.raises(CheckpointError, match=f"config.json: quantization_config: {message}"):
        check_config(Section({"quantization_config": {**good, **fields}}, "config.json"))
