"""Random LoRA adapters in the files that PEFT writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from build_engine.checkpoint import Checkpoint

TEXT_LAYERS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip


def text_modules(checkpoint: Checkpoint) -> list[str]:
    return [
        f"model.language_model.layers.{i}.{name}"
        for i in range(checkpoint.text.num_hidden_layers)
        for name in TEXT_LAYERS
    ]


def vision_modules(checkpoint: Checkpoint) -> list[str]:
    blocks = [
        f"model.visual.blocks.{i}.{name}"
        for i in range(checkpoint.vision.depth)
        for name in ("attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2")
    ]
    return [*blocks, "model.visual.merger.linear_fc1", "model.visual.deepstack_merger_list.0.linear_fc2"]


def make_adapter(
    directory: Path,
    checkpoint: Checkpoint,
    modules: Sequence[str],
    *,
    rank: int = 4,
    alpha: float = 6.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    config: Mapping[str, Any] | None = None,
    rename: tuple[str, str] = ("", ""),
    size: float = 0.3,
) -> Path:
    """Write an adapter of `modules` (names without ".weight"), large enough that it changes answers; `rename` replaces
    the beginning of the module names in the file.
    """
    shapes = checkpoint.vision_tensors() | checkpoint.text_tensors()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module in modules:
        out, width = shapes[f"{module}.weight"]
        key = f"base_model.model.{module.replace(*rename, 1) if rename[0] else module}"
        down = torch.randn(rank, width, generator=generator) / width**0.5
        up = size * torch.randn(out, rank, generator=generator)
        tensors |= {f"{key}.lora_A.weight": down.to(dtype), f"{key}.lora_B.weight": up.to(dtype)}
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    plain = {
        "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_rslora": False, "bias": "none", "use_dora": False,
        "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "fan_in_fan_out": False,
        "init_lora_weights": True, "lora_dropout": 0.05, "task_type": "CAUSAL_LM",
        "target_modules": sorted({module.rsplit(".", 1)[-1] for module in modules}), **(config or {}),
    }  # fmt: skip
    (directory / "adapter_config.json").write_text(json.dumps(plain), encoding="utf-8")
    return directory
