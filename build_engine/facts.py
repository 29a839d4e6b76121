"""Reads the facts of a checkpoint from its configuration files: networks, pixels, special tokens.

It knows config.json in the spelling of transformers 5 (`rope_parameters`) and of 4.57 (`rope_theta`,
`rope_scaling`), generation_config.json and the processor files. Nothing is assumed about the model's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engine import gptq
from build_engine.manifest import TextFacts, TokenIds, VisionFacts
from build_engine.section import CheckpointError, Section
from build_engine.shards import Shards

ARCHITECTURE = "Qwen3VLForConditionalGeneration"
_MOE = "Qwen3VLMoeForConditionalGeneration"
# transformers writes the top level of config.json as a difference to these defaults of Qwen3VLConfig.
_TOP_DEFAULTS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}


@dataclass(frozen=True)
class Deepstack:
    """One DeepStack level: the vision block it is taken after, and the index of its merger."""

    block: int
    merger: int


@dataclass(frozen=True)
class Architecture:
    """What only the build needs to know of the networks."""

    vision_act: str
    vision_intermediate_size: int
    deepstack: tuple[Deepstack, ...]
    text_intermediate_size: int
    rms_norm_eps: float
    attention_bias: bool
    tie_word_embeddings: bool


def check_architecture(config: Section) -> None:
    """Refuse anything but a dense Qwen3-VL, unquantised or in GPTQ form."""
    names = config.plain.get("architectures") or [config.plain.get("model_type")]
    if names[0] == _MOE or "moe" in str(config.plain.get("model_type")):
        raise CheckpointError(
            f"{names[0]} is a mixture of experts; only dense Qwen3-VL ({ARCHITECTURE}: "
            "2B, 4B, 8B, 32B) can be built"
        )
    if names[0] != ARCHITECTURE:
        raise CheckpointError(f"config.json: architecture {names[0]!r} cannot be built, only {ARCHITECTURE}")
    if "quantization_config" in config.plain:
        gptq.check_config(config)


def read_architecture(config: Section, vision: Section, text: Section, shards: Shards) -> Architecture:
    """Read what only the build needs."""
    if text.plain.get("hidden_act", "silu") != "silu":
        raise CheckpointError(
            f"text_config: hidden_act {text.plain['hidden_act']!r} is unknown; 'silu' is known"
        )
    act = vision.plain.get("hidden_act", "gelu_pytorch_tanh")
    if act not in ("gelu_pytorch_tanh", "gelu"):
        raise CheckpointError(
            f"vision_config: hidden_act {act!r} is unknown; 'gelu_pytorch_tanh' and 'gelu' are known"
        )
    tied = config.plain.get("tie_word_embeddings")
    if tied is None:  # as 4.57 wrote it for some sizes: only inside text_config
        tied = bool(text.plain.get("tie_word_embeddings")) and "lm_head.weight" not in shards
    return Architecture(
        vision_act=act,
        vision_intermediate_size=vision.integer("intermediate_size"),
        deepstack=_read_deepstack(vision),
        text_intermediate_size=text.integer("intermediate_size"),
        rms_norm_eps=text.number("rms_norm_eps", 1e-6),
        attention_bias=bool(text.plain.get("attention_bias", False)),
        tie_word_embeddings=bool(tied),
    )


def _read_deepstack(vision: Section) -> tuple[Deepstack, ...]:
    """transformers collects the levels in the order of the blocks, whatever the order of the list."""
    blocks: Any = vision.plain.get("deepstack_visual_indexes")
    depth = vision.integer("depth")
    if (
        not isinstance(blocks, list)
        or not all(isinstance(block, int) and 0 <= block < depth for block in blocks)
        or len(set(blocks)) != len(blocks)
    ):
        raise CheckpointError(
            f"vision_config: deepstack_visual_indexes is {blocks!r}; different block numbers from 0 to "
            f"{depth - 1} are needed"
        )
    ordered = sorted(enumerate(blocks), key=lambda item: int(item[1]))
    return tuple(Deepstack(block, merger) for merger, block in ordered)


def read_vision(directory: Path, vision: Section, architecture: Architecture) -> VisionFacts:
    """Read the facts of the vision tower, and the normalisation that the processors apply."""
    channels = vision.integer("in_channels", 3)
    image = _read_normalisation(Section.read(directory / "preprocessor_config.json"), channels)
    video_file = directory / "video_preprocessor_config.json"
    if video_file.is_file() and _read_normalisation(Section.read(video_file), channels) != image:
        raise CheckpointError(
            "preprocessor_config.json and video_preprocessor_config.json normalise pixels differently; "
            "the encoder folds in one normalisation"
        )
    mean, std, rescale_factor = image
    rope = vision.plain.get("rope_parameters") or {}
    return VisionFacts(
        patch_size=vision.integer("patch_size"),
        temporal_patch_size=vision.integer("temporal_patch_size"),
        spatial_merge_size=vision.integer("spatial_merge_size"),
        in_channels=channels,
        hidden_size=vision.integer("hidden_size"),
        num_heads=vision.integer("num_heads"),
        depth=vision.integer("depth"),
        num_position_embeddings=vision.integer("num_position_embeddings"),
        out_hidden_size=vision.integer("out_hidden_size"),
        deepstack_levels=len(architecture.deepstack),
        image_mean=mean,
        image_std=std,
        rescale_factor=rescale_factor,
        rope_theta=Section(rope, "config.json: vision_config.rope_parameters").number("rope_theta", 10000.0),
    )


def _read_normalisation(
    processor: Section, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    rescale = processor.number("rescale_factor", 1 / 255) if processor.plain.get("do_rescale", True) else 1.0
    if not processor.plain.get("do_normalize", True):
        return (0.0,) * channels, (1.0,) * channels, rescale
    mean, std = processor.numbers("image_mean", channels), processor.numbers("image_std", channels)
    if min(std) <= 0 or rescale <= 0:
        raise CheckpointError(f"{processor.where}: image_std and rescale_factor must be above 0")
    return mean, std, rescale


def read_text(text: Section) -> TextFacts:
    """Read the facts of the language model, in either spelling of the rotary parameters."""
    # transformers 5 has rope_parameters; 4.57 wrote rope_scaling and a rope_theta beside it.
    rope = Section(
        text.plain.get("rope_parameters") or text.plain.get("rope_scaling") or {}, "text_config rope"
    )
    kind = rope.plain.get("rope_type", rope.plain.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise CheckpointError(
            f"text_config: rope_type {kind!r} is not supported, only 'default' (interleaved MRoPE)"
        )
    if rope.plain.get("mrope_interleaved", True) is not True:
        raise CheckpointError("text_config: mrope_interleaved must be true, as in every Qwen3-VL")
    theta = rope.plain.get("rope_theta", text.plain.get("rope_theta"))
    if theta is None:
        raise CheckpointError("text_config: neither rope_parameters.rope_theta nor rope_theta is given")
    sections = rope.plain.get("mrope_section", [24, 20, 20])
    if len(sections) != 3 or not all(isinstance(value, int) and value >= 0 for value in sections):
        raise CheckpointError(f"text_config: mrope_section is {sections!r}; three whole numbers are needed")
    heads = text.integer("num_attention_heads")
    return TextFacts(
        vocab_size=text.integer("vocab_size"),
        hidden_size=text.integer("hidden_size"),
        num_hidden_layers=text.integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=heads
        if text.plain.get("num_key_value_heads") is None
        else text.integer("num_key_value_heads"),
        head_dim=text.integer("head_dim", 128),
        rope_theta=float(theta),
        mrope_section=(sections[0], sections[1], sections[2]),
        max_position_embeddings=text.integer("max_position_embeddings"),
    )


def read_tokens(directory: Path, config: Section, text: Section) -> TokenIds:
    """Read the special token ids."""
    generation: dict[str, Any] = {}
    if (directory / "generation_config.json").is_file():
        generation = Section.read(directory / "generation_config.json").plain
    eos = generation.get("eos_token_id")
    eos = text.plain.get("eos_token_id") if eos is None else eos
    ends = tuple(eos) if isinstance(eos, list) else (eos,)
    if not ends or not all(isinstance(end, int) for end in ends):
        raise CheckpointError(
            "no eos_token_id in generation_config.json or text_config; answers could not end"
        )
    pad = generation.get("pad_token_id")
    ids = {name: config.integer(name, default) for name, default in _TOP_DEFAULTS.items()}
    return TokenIds(
        eos=ends,
        pad=pad if isinstance(pad, int) else ends[0],
        image=ids["image_token_id"],
        video=ids["video_token_id"],
        vision_start=ids["vision_start_token_id"],
        vision_end=ids["vision_end_token_id"],
    )
