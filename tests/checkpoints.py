"""Small random Qwen3-VL checkpoints of every shape: real Hugging Face directories that transformers loads.

Weights are drawn large enough that a mistake anywhere changes the answer, which the usual initialisation
(0.02) does not do. The tokenizer and the chat template are the demo checkpoint's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

DEMO = Path(__file__).parents[1] / "build_engine" / "demo" / "checkpoint"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

VARIANTS: Mapping[str, dict[str, Any]] = {
    "base": {},
    "untied": {"tie_word_embeddings": False},
    "one_level": {"vision": {"deepstack_visual_indexes": [1]}},
    "three_levels": {"vision": {"depth": 4, "deepstack_visual_indexes": [0, 1, 3]}},
    "no_level": {"vision": {"deepstack_visual_indexes": []}},
    # transformers orders the levels by block whatever the order of the list, but keeps each one's merger.
    "swapped_levels": {"vision": {"depth": 4, "deepstack_visual_indexes": [3, 0]}},
    "wide_heads": {"text": {"head_dim": 128, "mrope_section": [24, 20, 20]}},
    "one_kv_head": {"text": {"num_key_value_heads": 1}},
    "other_patches": {
        "vision": {
            "patch_size": 8,
            "spatial_merge_size": 3,
            "temporal_patch_size": 1,
            "num_position_embeddings": 49,
        }
    },
    "other_colours": {"image": {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}},
    "biased_attention": {"text": {"attention_bias": True, "rms_norm_eps": 1e-5}},
    "exact_gelu": {"vision": {"hidden_act": "gelu", "num_heads": 2, "rope_theta": 500.0}},
}


def make_checkpoint(
    directory: Path,
    seed: int = 0,
    *,
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
    image: Mapping[str, Any] | None = None,
    tie_word_embeddings: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: str = "5GB",
) -> Path:
    """Write a random checkpoint; `text`, `vision`, `image` change fields of the three configurations."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    config = _config(tokenizer, dict(text or {}), dict(vision or {}), tie_word_embeddings)
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    _draw(model, torch.Generator().manual_seed(seed))
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id], pad_token_id=tokenizer.pad_token_id
    )
    model.to(dtype).save_pretrained(directory, max_shard_size=max_shard_size)
    for name in TOKENIZER_FILES:
        shutil.copyfile(DEMO / name, directory / name)
    for name, content in _processors(config, dict(image or {})).items():
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    return directory


def make_variant(directory: Path, name: str) -> Path:
    """Write the checkpoint of VARIANTS called `name`."""
    return make_checkpoint(directory, seed=sorted(VARIANTS).index(name), **VARIANTS[name])


def _config(tokenizer: Any, text: dict[str, Any], vision: dict[str, Any], tied: bool) -> Qwen3VLConfig:
    token_id = tokenizer.convert_tokens_to_ids
    rope = {
        "rope_type": "default",
        "rope_theta": 1e5,
        "mrope_section": text.pop("mrope_section", [12, 10, 10]),
        "mrope_interleaved": True,
    }
    vision_rope = {"rope_type": "axial", "rope_theta": vision.pop("rope_theta", 1e4)}
    return Qwen3VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 64) * 64, "hidden_size": 96, "intermediate_size": 160,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
            "max_position_embeddings": 4096, "rope_parameters": rope, "tie_word_embeddings": tied, **text,
        },
        vision_config={
            "depth": 3, "hidden_size": 64, "num_heads": 4, "intermediate_size": 96, "patch_size": 16,
            "temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": 96,
            "num_position_embeddings": 144, "deepstack_visual_indexes": [0, 2],
            "rope_parameters": vision_rope, **vision,
        },
        image_token_id=token_id("<|image_pad|>"), video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"), vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=tied,
    )  # fmt: skip


@torch.no_grad()
def _draw(model: torch.nn.Module, generator: torch.Generator) -> None:
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "embed_tokens" in name:
            parameter.copy_(0.4 * noise)
        elif "pos_embed" in name:
            parameter.copy_(0.5 * noise)
        elif parameter.ndim > 1:
            parameter.copy_(noise * 1.2 / parameter[0].numel() ** 0.5)
        elif "norm" in name and name.endswith("weight"):
            parameter.copy_(1 + 0.1 * noise)
        else:
            parameter.copy_(0.1 * noise)


def _processors(config: Qwen3VLConfig, image: dict[str, Any]) -> dict[str, dict[str, Any]]:
    vision = config.vision_config
    cell = (vision.patch_size * vision.spatial_merge_size) ** 2  # pixels of one visual token
    common = {
        "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size, "merge_size": vision.spatial_merge_size,
        "processor_class": "Qwen3VLProcessor", **image,
    }  # fmt: skip
    return {
        "preprocessor_config.json": {
            **common, "image_processor_type": "Qwen2VLImageProcessor",
            "size": {"shortest_edge": 4 * cell, "longest_edge": 48 * cell},
        },
        "video_preprocessor_config.json": {
            **common, "video_processor_type": "Qwen3VLVideoProcessor", "do_sample_frames": True, "fps": 2,
            "min_frames": 4, "max_frames": 8, "cap_pixels_per_frame": False,
            "size": {"shortest_edge": 4 * cell, "longest_edge": 96 * cell},
        },
    }  # fmt: skip
