"""Reading PEFT adapters, merging them, and the two files that TensorRT-LLM's runtime takes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engine.checkpoint import Checkpoint
from build_engine.lora import Adapter, AdapterError, merge
from build_engine.section import CheckpointError
from build_engine.trtllm.lora import CONFIG, MODULES, TARGET_MODULES, WEIGHTS, convert
from build_engine.trtllm.options import EngineOptions
from tests.adapters import make_adapter, text_modules, vision_modules

Make = Callable[..., Path]
RUN_TIME = EngineOptions(max_lora_rank=16)


@pytest.fixture(scope="module")
def checkpoint(demo_checkpoint: Path) -> Checkpoint:
    return Checkpoint.read(demo_checkpoint)


@pytest.fixture
def make(tmp_path: Path, checkpoint: Checkpoint) -> Make:
    def write(modules: list[str] | None = None, name: str = "adapter", **options: Any) -> Path:
        return make_adapter(tmp_path / name, checkpoint, modules or text_modules(checkpoint)[:9], **options)

    return write


def _edit(adapter: Path, **fields: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _edit_tensors(adapter: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_merged_tensors_are_the_sum_rounded_once_and_others_stay(checkpoint: Checkpoint, make: Make) -> None:
    modules = [*text_modules(checkpoint)[:3], vision_modules(checkpoint)[0]]
    adapter = make(modules, rank=3, alpha=6.0)
    tensors = load_file(adapter / "adapter_model.safetensors")
    merged = merge(checkpoint, adapter)
    for module in modules:
        name = f"{module}.weight"
        a, b = (tensors[f"base_model.model.{module}.lora_{side}.weight"].double() for side in "AB")
        before = torch.from_numpy(checkpoint.shards.float32(name))
        expected = (before.double() + 2 * (b @ a)).bfloat16().float().numpy()
        made = merged.shards.float32(name)
        # Double and float32 sums may fall on two sides of a rounding step, seldom.
        assert (made != expected).mean() < 1e-3
        assert np.abs(made - expected).max() <= np.abs(expected).max() / 128
        assert np.abs(made - before.numpy()).max() > 0.05
        bits = merged.shards.bits(name)
        assert bits is not None
        assert np.array_equal((bits.astype(np.uint32) << 16).view(np.float32), made)
    untouched = f"{text_modules(checkpoint)[3]}.weight"
    assert np.array_equal(merged.shards.float32(untouched), checkpoint.shards.float32(untouched))
    assert np.array_equal(merged.shards.bits(untouched), checkpoint.shards.bits(untouched))


def test_two_adapters_add_up_in_turn(checkpoint: Checkpoint, make: Make) -> None:
    first, second = make(seed=1, name="first"), make(seed=2, name="second")
    name = f"{text_modules(checkpoint)[0]}.weight"
    one = merge(checkpoint, first)
    two = merge(one, second)
    delta = Adapter.read(second, checkpoint).delta(name)
    assert np.abs(two.shards.float32(name) - (one.shards.float32(name) + delta)).max() < 0.01
    assert np.abs(delta).max() > 0.1
    assert name in two.shards


def test_the_content_hash_follows_the_adapter(checkpoint: Checkpoint, make: Make) -> None:
    adapter = make()
    first = merge(checkpoint, adapter).content_hash()
    assert first == merge(checkpoint, adapter).content_hash()
    _edit(adapter, lora_alpha=7.0)
    second = merge(checkpoint, adapter).content_hash()
    _edit_tensors(adapter, lambda tensors: next(iter(tensors.values())).add_(1e-3))
    assert len({checkpoint.content_hash(), first, second, merge(checkpoint, adapter).content_hash()}) == 4


@pytest.mark.parametrize(
    "rename",
    [("model.language_model.", "language_model."), ("model.language_model.", "model.")],
    ids=["without head", "text half"],
)
def test_names_of_other_training_set_ups_mean_the_same_layers(
    rename: tuple[str, str], checkpoint: Checkpoint, make: Make
) -> None:
    usual, other = (
        Adapter.read(make(), checkpoint),
        Adapter.read(make(rename=rename, name="other"), checkpoint),
    )
    assert set(usual.matrices) == set(other.matrices)
    name = next(iter(usual.matrices))
    assert np.array_equal(usual.delta(name), other.delta(name))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported"),
        ({"use_dora": True}, "use_dora is True: DoRA scales"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is .*whole modules"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"bias": "all"}, "bias 'all' is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base weights"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"r": 8}, "r is 8, but .* has rank 4"),
        ({"lora_alpha": None}, "lora_alpha is None"),
    ],
)
def test_adapters_that_a_plain_merge_would_get_wrong_are_refused(
    fields: dict[str, Any], message: str, checkpoint: Checkpoint, make: Make
) -> None:
    adapter = make()
    _edit(adapter, **fields)
    with pytest.raises(ValueError, match=message):
        merge(checkpoint, adapter)


KEY = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({f"{KEY}.lora_magnitude_vector": torch.ones(3)}), "lora_magnitude_vector' is no lora_A"),
        (lambda t: t.pop(f"{KEY}.lora_B.weight"), "has no partner"),
        (lambda t: t.update({f"{KEY}.lora_B.weight": torch.ones(7, 4)}), "do not fit .*another size"),
        (lambda t: t.update({f"{KEY}.lora_A.weight": torch.ones(4, 4)}), "do not fit"),
        (lambda t: t.update({f"{KEY}.lora_B.weight": t[f"{KEY}.lora_B.weight"].to(torch.int8)}), "stored as I8"),
        (lambda t: t.update({"base_model.model.model.language_model.layers.99.mlp.up_proj.lora_A.weight": torch.ones(4, 8),
                             "base_model.model.model.language_model.layers.99.mlp.up_proj.lora_B.weight": torch.ones(8, 4)}),
         "layers.99.mlp.up_proj.weight', which is no such tensor"),
        (lambda t: t.update({"base_model.model.model.visual.patch_embed.proj.lora_A.weight": torch.ones(4, 8),
                             "base_model.model.model.visual.patch_embed.proj.lora_B.weight": torch.ones(8, 4)}),
         "no linear layer"),
        (lambda t: t.clear(), "adapts no layer"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(
    change: Callable[[dict[str, torch.Tensor]], Any], message: str, checkpoint: Checkpoint, make: Make
) -> None:
    adapter = make()
    _edit_tensors(adapter, change)
    with pytest.raises(CheckpointError, match=message):
        merge(checkpoint, adapter)


def test_an_adapter_of_the_head_needs_a_head_of_its_own(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert checkpoint.architecture.tie_word_embeddings
    untied = replace(checkpoint, architecture=replace(checkpoint.architecture, tie_word_embeddings=False))
    adapter = make_adapter(tmp_path / "head", untied, ["lm_head"])
    assert list(Adapter.read(adapter, untied).matrices) == ["lm_head.weight"]
    with pytest.raises(AdapterError, match=r"'lm_head.weight', which is no such tensor"):
        Adapter.read(adapter, checkpoint)


def test_missing_files_say_what_to_do(checkpoint: Checkpoint, make: Make, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is not a directory"):
        merge(checkpoint, tmp_path / "nowhere")
    adapter = make()
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(AdapterError, match="safe_serialization=True"):
        merge(checkpoint, adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"adapter_config.json is missing"):
        merge(checkpoint, adapter)


@pytest.mark.parametrize("weights", ["bf16", "fp16"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_runtime_files_hold_the_change_that_a_merge_makes(
    weights: str, use_rslora: bool, checkpoint: Checkpoint, make: Make, tmp_path: Path
) -> None:
    adapter = make(text_modules(checkpoint), config={"use_rslora": use_rslora})
    convert(checkpoint, adapter, tmp_path / "out", EngineOptions(weights=weights, max_lora_rank=4))
    rows, config = np.load(tmp_path / "out" / WEIGHTS), np.load(tmp_path / "out" / CONFIG)
    read = Adapter.read(adapter, checkpoint)
    assert config.dtype == np.int32
    assert rows.shape[:2] == config.shape[:2] == (1, len(read.matrices))
    assert config.shape[2] == 3
    values = (
        (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        if weights == "bf16"
        else rows.astype(np.float32)
    )
    layer_of = {module_id: layer for layer, (_, module_id) in MODULES.items()}
    shapes = checkpoint.text_tensors()
    seen = set()
    for row, (module_id, layer, rank) in zip(values[0], config[0], strict=True):
        name = f"model.language_model.layers.{layer}.{layer_of[module_id]}.weight"
        out, width = shapes[name]
        down, rest = row[: rank * width].reshape(rank, width), row[rank * width :]
        up = rest[: out * rank].reshape(out, rank)
        assert not rest[out * rank :].any()
        expected = read.delta(name)
        assert np.abs(up @ down - expected).max() < 0.02 * np.abs(expected).max()
        seen.add(name)
    assert seen == set(read.matrices)


def test_the_types_are_those_that_the_runtime_reads(
    checkpoint: Checkpoint, make: Make, tmp_path: Path
) -> None:
    def descr(path: Path) -> str:
        data = path.read_bytes()
        (length,) = struct.unpack("<H", data[8:10])
        return data[10 : 10 + length].decode("latin1").split("'descr': '")[1].split("'")[0]

    for weights, expected in (("bf16", "|V2"), ("fp16", "<f2")):
        convert(checkpoint, make(), tmp_path / weights, replace(RUN_TIME, weights=weights))
        assert descr(tmp_path / weights / WEIGHTS) == expected
        assert descr(tmp_path / weights / CONFIG) == "<i4"


def test_an_adapter_that_only_a_merge_can_apply_is_refused(
    checkpoint: Checkpoint, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match=r"rank 4, above --max-lora-rank 2; raise it, or merge"):
        convert(checkpoint, make(), tmp_path / "out", EngineOptions(max_lora_rank=2))
    vision = make(vision_modules(checkpoint)[:1], name="vision")
    with pytest.raises(AdapterError, match=r"visual.blocks.0.attn.qkv.weight'; at run time .* --merge-lora"):
        convert(checkpoint, vision, tmp_path / "out", RUN_TIME)
    assert not (tmp_path / "out").exists()


def test_module_ids_are_those_of_the_runtime() -> None:
    """LoraManager.LORA_MODULE_IDS. TensorRT-LLM's "gate" is Qwen's up_proj, its "fc" (h_to_4h) is gate_proj."""
    assert {name: module for module, name in MODULES.items()} == {
        ("attn_q", 1): "self_attn.q_proj", ("attn_k", 2): "self_attn.k_proj", ("attn_v", 3): "self_attn.v_proj",
        ("attn_dense", 4): "self_attn.o_proj", ("mlp_h_to_4h", 5): "mlp.gate_proj",
        ("mlp_4h_to_h", 6): "mlp.down_proj", ("mlp_gate", 7): "mlp.up_proj",
    }  # fmt: skip
    assert len(TARGET_MODULES) == 7
