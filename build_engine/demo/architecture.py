"""The shape of the demo model: a real Qwen3-VL configuration with every size small.

Sizes are chosen so that a checkpoint in bfloat16 stays under 12 MB and a CPU trains it in about an hour.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CELL = 32  # pixels along one merged visual token: patch 16 x merge 2
IMAGE_PIXELS = (36 * CELL * CELL, 48 * CELL * CELL)  # 36..48 visual tokens per picture
VIDEO_PIXELS = (4 * CELL * CELL, 8 * 24 * CELL * CELL)  # frames x pixels of a whole clip, at most
VIDEO_FPS, VIDEO_MIN_FRAMES, VIDEO_MAX_FRAMES = 2, 4, 8


@dataclass(frozen=True)
class Sizes:
    """Widths and depths; the defaults are the shipped checkpoint."""

    vision_hidden: int = 128
    vision_depth: int = 5
    vision_heads: int = 4
    vision_intermediate: int = 384
    deepstack: tuple[int, ...] = (2, 3)
    text_hidden: int = 224
    text_depth: int = 4
    text_heads: int = 4
    text_kv_heads: int = 2
    text_head_dim: int = 64
    text_intermediate: int = 576


def make_config(tokenizer: Any, sizes: Sizes) -> Any:
    """The `Qwen3VLConfig` for a tokenizer."""
    from transformers import Qwen3VLConfig

    token_id = tokenizer.convert_tokens_to_ids
    vocab_size = -(-len(tokenizer) // 64) * 64
    return Qwen3VLConfig(
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": sizes.text_hidden,
            "intermediate_size": sizes.text_intermediate,
            "num_hidden_layers": sizes.text_depth,
            "num_attention_heads": sizes.text_heads,
            "num_key_value_heads": sizes.text_kv_heads,
            "head_dim": sizes.text_head_dim,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "bos_token_id": token_id("<|endoftext|>"),
            "eos_token_id": token_id("<|im_end|>"),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 100000.0,
                "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": sizes.vision_depth,
            "hidden_size": sizes.vision_hidden,
            "num_heads": sizes.vision_heads,
            "intermediate_size": sizes.vision_intermediate,
            "patch_size": CELL // 2,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": sizes.text_hidden,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": list(sizes.deepstack),
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def make_model(tokenizer: Any, sizes: Sizes, seed: int) -> Any:
    """A float32 `Qwen3VLForConditionalGeneration` with random weights."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(make_config(tokenizer, sizes))
    token_id = tokenizer.convert_tokens_to_ids
    generation = model.generation_config
    generation.eos_token_id = [token_id("<|im_end|>"), token_id("<|endoftext|>")]
    generation.pad_token_id = generation.bos_token_id = token_id("<|endoftext|>")
    generation.do_sample = False
    return model


def processor_files() -> dict[str, dict[str, Any]]:
    """File name to content of the image and video processor configurations."""
    common: dict[str, Any] = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
        "patch_size": CELL // 2,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "processor_class": "Qwen3VLProcessor",
    }
    image = {
        **common,
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"shortest_edge": IMAGE_PIXELS[0], "longest_edge": IMAGE_PIXELS[1]},
    }
    video = {
        **common,
        "video_processor_type": "Qwen3VLVideoProcessor",
        "do_sample_frames": True,
        "fps": VIDEO_FPS,
        "min_frames": VIDEO_MIN_FRAMES,
        "max_frames": VIDEO_MAX_FRAMES,
        "cap_pixels_per_frame": False,
        "size": {"shortest_edge": VIDEO_PIXELS[0], "longest_edge": VIDEO_PIXELS[1]},
    }
    return {"preprocessor_config.json": image, "video_preprocessor_config.json": video}


def save_checkpoint(model: Any, tokenizer: Any, folder: Path, state: dict[str, Any] | None = None) -> None:
    """Writes a complete Hugging Face directory, weights in bfloat16; files appear by rename, never half written.

    `state` replaces the model's own weights.
    """
    import os
    import tempfile

    import torch

    folder.mkdir(parents=True, exist_ok=True)
    copy = type(model)(model.config).to(torch.bfloat16)
    missing, unknown = copy.load_state_dict(model.state_dict() if state is None else state, strict=False)
    if unknown or set(missing) - {"lm_head.weight"}:  # the head is tied to the embeddings
        raise ValueError(f"state does not fit the model: missing {missing}, unknown {unknown}")
    copy.generation_config = model.generation_config
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        copy.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for name, content in processor_files().items():
            Path(scratch, name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for file in Path(scratch).iterdir():
            os.replace(file, folder / file.name)
