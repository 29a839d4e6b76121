"""Reads a Hugging Face Qwen3-VL directory: facts, weights, token ids. Nothing is assumed about the model's size.

It knows config.json in the spelling of transformers 5 (`rope_parameters`) and of 4.57 (`rope_theta`, `rope_scaling`),
generation_config.json and the processor files. It does not know engines. Whatever cannot be built from is refused here
with a CheckpointError, before any work starts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engine.manifest import TextFacts, TokenIds, VisionFacts, sha256
from build_engine.shards import CheckpointError, Shards

ARCHITECTURE = "Qwen3VLForConditionalGeneration"
_MOE = "Qwen3VLMoeForConditionalGeneration"
_LANGUAGE = "model.language_model"
_VISUAL = "model.visual"
# Served beside the engines. The first three groups hold at least one file that must exist.
_REQUIRED_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
_OPTIONAL_FILES = ("generation_config.json", "video_preprocessor_config.json", "chat_template.json")
_CHAT_TEMPLATE = "chat_template.jinja"
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


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint directory."""

    directory: Path
    vision: VisionFacts
    text: TextFacts
    tokens: TokenIds
    architecture: Architecture
    shards: Shards

    @classmethod
    def read(cls, directory: Path) -> Checkpoint:
        """Read and check everything but the weights' values; CheckpointError says what is wrong."""
        if not directory.is_dir():
            raise CheckpointError(f"{directory} is not a directory; give the path of a downloaded Qwen3-VL checkpoint")
        config = Section.read(directory / "config.json")
        _check_architecture(config)
        for name in _REQUIRED_FILES:
            if not (directory / name).is_file():
                raise CheckpointError(f"{directory / name} is missing; download the whole checkpoint")
        chat_template(directory)
        vision, text = config.section("vision_config"), config.section("text_config")
        shards = Shards(directory)
        architecture = _read_architecture(config, vision, text, shards)
        checkpoint = cls(
            directory=directory,
            vision=_read_vision(directory, vision, architecture),
            text=_read_text(text),
            tokens=_read_tokens(directory, config, text),
            architecture=architecture,
            shards=shards,
        )
        _check_facts(checkpoint)
        shards.check(checkpoint.vision_tensors() | checkpoint.text_tensors())
        return checkpoint

    def vision_tensors(self) -> dict[str, tuple[int, ...]]:
        """Name to shape of every tensor of the vision tower."""
        v, a = self.vision, self.architecture
        hidden, merged = v.hidden_size, v.hidden_size * v.spatial_merge_size**2
        shapes = {
            "patch_embed.proj.weight": (hidden, v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size),
            "patch_embed.proj.bias": (hidden,),
            "pos_embed.weight": (v.num_position_embeddings, hidden),
        }
        for i in range(v.depth):
            block = f"blocks.{i}"
            shapes |= _pair(f"{block}.norm1", (hidden,)) | _pair(f"{block}.norm2", (hidden,))
            shapes |= _pair(f"{block}.attn.qkv", (3 * hidden, hidden)) | _pair(f"{block}.attn.proj", (hidden, hidden))
            shapes |= _pair(f"{block}.mlp.linear_fc1", (a.vision_intermediate_size, hidden))
            shapes |= _pair(f"{block}.mlp.linear_fc2", (hidden, a.vision_intermediate_size))
        mergers = {f"deepstack_merger_list.{level.merger}": merged for level in a.deepstack}
        for merger, norm in {"merger": hidden, **mergers}.items():
            shapes |= _pair(f"{merger}.norm", (norm,)) | _pair(f"{merger}.linear_fc1", (merged, merged))
            shapes |= _pair(f"{merger}.linear_fc2", (v.out_hidden_size, merged))
        return {f"{_VISUAL}.{name}": shape for name, shape in shapes.items()}

    def text_tensors(self) -> dict[str, tuple[int, ...]]:
        """Name to shape of every tensor of the language model."""
        t, a = self.text, self.architecture
        queries, keys = t.num_attention_heads * t.head_dim, t.num_key_value_heads * t.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "embed_tokens.weight": (t.vocab_size, t.hidden_size),
            "norm.weight": (t.hidden_size,),
        }
        for i in range(t.num_hidden_layers):
            layer = f"layers.{i}"
            for norm in ("input_layernorm", "post_attention_layernorm"):
                shapes[f"{layer}.{norm}.weight"] = (t.hidden_size,)
            attention = {"q": (queries, t.hidden_size), "k": (keys, t.hidden_size), "v": (keys, t.hidden_size),
                         "o": (t.hidden_size, queries)}  # fmt: skip
            for letter, shape in attention.items():
                shapes[f"{layer}.self_attn.{letter}_proj.weight"] = shape
                if a.attention_bias:
                    shapes[f"{layer}.self_attn.{letter}_proj.bias"] = shape[:1]
            for letter in "qk":
                shapes[f"{layer}.self_attn.{letter}_norm.weight"] = (t.head_dim,)
            for name in ("gate_proj", "up_proj"):
                shapes[f"{layer}.mlp.{name}.weight"] = (a.text_intermediate_size, t.hidden_size)
            shapes[f"{layer}.mlp.down_proj.weight"] = (t.hidden_size, a.text_intermediate_size)
        named = {f"{_LANGUAGE}.{name}": shape for name, shape in shapes.items()}
        if not a.tie_word_embeddings:
            named["lm_head.weight"] = (t.vocab_size, t.hidden_size)
        return named

    def served_files(self) -> tuple[Path, ...]:
        """Files that are copied beside the engines, unchanged."""
        names = (*_REQUIRED_FILES, *_OPTIONAL_FILES, _CHAT_TEMPLATE)
        return tuple(path for name in names if (path := self.directory / name).is_file())

    def content_hash(self) -> str:
        """Hex sha256 over the contents of all files that the engines depend on; reads every weight once."""
        digest = hashlib.sha256()
        for path in (*self.served_files(), *self.shards.files):
            digest.update(f"{path.name} {sha256(path)}\n".encode())
        return digest.hexdigest()


class Section:
    """An object of a JSON file whose missing or wrong fields are reported by their full name."""

    def __init__(self, plain: dict[str, Any], where: str) -> None:
        self.plain, self.where = plain, where

    @classmethod
    def read(cls, path: Path) -> Section:
        """Read a file; CheckpointError when it is missing or no JSON object."""
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; is {path.parent} a Hugging Face checkpoint?")
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is not JSON ({error})") from error
        if not isinstance(plain, dict):
            raise CheckpointError(f"{path} holds no JSON object")
        return cls(plain, path.name)

    def section(self, name: str) -> Section:
        """The object called `name`."""
        return Section(self._get(name, dict), f"{self.where}: {name}")

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive whole number; a list of equal numbers (``patch_size: [16, 16]``) counts as that number."""
        value = self.plain.get(name, default)
        if isinstance(value, list) and value and len(set(value)) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise CheckpointError(f"{self.where}: {name} is {value!r}; a positive whole number is needed")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number."""
        value = self.plain.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{self.where}: {name} is {value!r}; a number is needed")
        return float(value)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """Exactly `count` numbers."""
        values = self._get(name, list)
        if len(values) != count or not all(isinstance(value, int | float) for value in values):
            raise CheckpointError(f"{self.where}: {name} is {values!r}; {count} numbers are needed")
        return tuple(float(value) for value in values)

    def _get(self, name: str, kind: type) -> Any:
        value = self.plain.get(name)
        if not isinstance(value, kind):
            raise CheckpointError(f"{self.where}: {name} is missing or no {kind.__name__}")
        return value


def chat_template(directory: Path) -> str:
    """The Jinja text of the chat template, from whichever of the three usual files has it."""
    if (directory / _CHAT_TEMPLATE).is_file():
        return (directory / _CHAT_TEMPLATE).read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            template = Section.read(directory / name).plain.get("chat_template")
            if isinstance(template, str):
                return template
    raise CheckpointError(f"{directory} has no chat template ({_CHAT_TEMPLATE}, chat_template.json)")


def _check_architecture(config: Section) -> None:
    names = config.plain.get("architectures") or [config.plain.get("model_type")]
    if names[0] == _MOE or "moe" in str(config.plain.get("model_type")):
        raise CheckpointError(
            f"{names[0]} is a mixture of experts; only dense Qwen3-VL ({ARCHITECTURE}: 2B, 4B, 8B, 32B) can be built"
        )
    if names[0] != ARCHITECTURE:
        raise CheckpointError(f"config.json: architecture {names[0]!r} cannot be built, only {ARCHITECTURE}")
    if "quantization_config" in config.plain:
        raise CheckpointError("config.json has quantization_config; build from the unquantised checkpoint (bf16)")


def _read_architecture(config: Section, vision: Section, text: Section, shards: Shards) -> Architecture:
    if text.plain.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"text_config: hidden_act {text.plain['hidden_act']!r} is unknown; 'silu' is known")
    act = vision.plain.get("hidden_act", "gelu_pytorch_tanh")
    if act not in ("gelu_pytorch_tanh", "gelu"):
        raise CheckpointError(f"vision_config: hidden_act {act!r} is unknown; 'gelu_pytorch_tanh' and 'gelu' are known")
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
    blocks = vision.plain.get("deepstack_visual_indexes")
    depth = vision.integer("depth")
    valid = isinstance(blocks, list) and all(isinstance(block, int) and 0 <= block < depth for block in blocks)
    if not valid or len(set(blocks)) != len(blocks):  # type: ignore[arg-type]
        raise CheckpointError(
            f"vision_config: deepstack_visual_indexes is {blocks!r}; different block numbers from 0 to "
            f"{depth - 1} are needed"
        )
    return tuple(Deepstack(block, merger) for merger, block in sorted(enumerate(blocks), key=lambda item: item[1]))


def _read_vision(directory: Path, vision: Section, architecture: Architecture) -> VisionFacts:
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


def _read_text(text: Section) -> TextFacts:
    # transformers 5 has rope_parameters; 4.57 wrote rope_scaling and a rope_theta beside it.
    rope = Section(text.plain.get("rope_parameters") or text.plain.get("rope_scaling") or {}, "text_config rope")
    kind = rope.plain.get("rope_type", rope.plain.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise CheckpointError(f"text_config: rope_type {kind!r} is not supported, only 'default' (interleaved MRoPE)")
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
        num_key_value_heads=heads if text.plain.get("num_key_value_heads") is None else text.integer("num_key_value_heads"),
        head_dim=text.integer("head_dim", 128),
        rope_theta=float(theta),
        mrope_section=(sections[0], sections[1], sections[2]),
        max_position_embeddings=text.integer("max_position_embeddings"),
    )


def _read_tokens(directory: Path, config: Section, text: Section) -> TokenIds:
    generation: dict[str, Any] = {}
    if (directory / "generation_config.json").is_file():
        generation = Section.read(directory / "generation_config.json").plain
    eos = generation.get("eos_token_id")
    eos = text.plain.get("eos_token_id") if eos is None else eos
    ends = tuple(eos) if isinstance(eos, list) else (eos,)
    if not ends or not all(isinstance(end, int) for end in ends):
        raise CheckpointError("no eos_token_id in generation_config.json or text_config; answers could not end")
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


def _check_facts(checkpoint: Checkpoint) -> None:
    vision, text = checkpoint.vision, checkpoint.text
    processor = Section.read(checkpoint.directory / "preprocessor_config.json")
    rules = (
        (vision.out_hidden_size == text.hidden_size,
         f"vision_config.out_hidden_size {vision.out_hidden_size} is not text_config.hidden_size {text.hidden_size}"),
        (round(vision.num_position_embeddings**0.5) ** 2 == vision.num_position_embeddings,
         f"vision_config.num_position_embeddings {vision.num_position_embeddings} is no square number"),
        (vision.hidden_size % (4 * vision.num_heads) == 0,
         f"vision_config: hidden_size {vision.hidden_size} must be a multiple of 4 * num_heads ({vision.num_heads})"),
        (text.num_attention_heads % text.num_key_value_heads == 0,
         "text_config: num_attention_heads must be a multiple of num_key_value_heads"),
        (text.head_dim % 2 == 0, f"text_config: head_dim {text.head_dim} must be even"),
        (vision.deepstack_levels <= text.num_hidden_layers,
         f"{vision.deepstack_levels} DeepStack levels need as many decoder layers, there are {text.num_hidden_layers}"),
        (processor.integer("patch_size", vision.patch_size) == vision.patch_size
         and processor.integer("merge_size", vision.spatial_merge_size) == vision.spatial_merge_size
         and processor.integer("temporal_patch_size", vision.temporal_patch_size) == vision.temporal_patch_size,
         "preprocessor_config.json: patch_size, merge_size, temporal_patch_size differ from vision_config"),
        (max(checkpoint.tokens.eos) < text.vocab_size and checkpoint.tokens.image < text.vocab_size,
         f"a special token id is not below vocab_size {text.vocab_size}"),
    )  # fmt: skip
    for holds, message in rules:
        if not holds:
            raise CheckpointError(f"{checkpoint.directory}: {message}")


def _pair(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
