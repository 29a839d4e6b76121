"""A Hugging Face Qwen3-VL directory: its files, facts and weights, checked to belong together.

It does not know engines. Whatever cannot be built from is refused here with a CheckpointError, before any
work starts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from build_engine.facts import (
    Architecture,
    check_architecture,
    read_architecture,
    read_text,
    read_tokens,
    read_vision,
)
from build_engine.gptq import GptqShards
from build_engine.manifest import TextFacts, TokenIds, VisionFacts, sha256
from build_engine.section import CheckpointError, Section
from build_engine.shards import Shards

_LANGUAGE = "model.language_model"
_VISUAL = "model.visual"
# Served beside the engines. The first three groups hold at least one file that must exist.
_REQUIRED_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
_OPTIONAL_FILES = ("generation_config.json", "video_preprocessor_config.json", "chat_template.json")
_CHAT_TEMPLATE = "chat_template.jinja"


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
            raise CheckpointError(
                f"{directory} is not a directory; give the path of a downloaded Qwen3-VL checkpoint"
            )
        config = Section.read(directory / "config.json")
        check_architecture(config)
        for name in _REQUIRED_FILES:
            if not (directory / name).is_file():
                raise CheckpointError(f"{directory / name} is missing; download the whole checkpoint")
        chat_template(directory)
        vision, text = config.section("vision_config"), config.section("text_config")
        shards = GptqShards(directory) if "quantization_config" in config.plain else Shards(directory)
        architecture = read_architecture(config, vision, text, shards)
        checkpoint = cls(
            directory=directory,
            vision=read_vision(directory, vision, architecture),
            text=read_text(text),
            tokens=read_tokens(directory, config, text),
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
            "patch_embed.proj.weight": (
                hidden,
                v.in_channels,
                v.temporal_patch_size,
                v.patch_size,
                v.patch_size,
            ),
            "patch_embed.proj.bias": (hidden,),
            "pos_embed.weight": (v.num_position_embeddings, hidden),
        }
        for i in range(v.depth):
            block = f"blocks.{i}"
            shapes |= _pair(f"{block}.norm1", (hidden,)) | _pair(f"{block}.norm2", (hidden,))
            shapes |= _pair(f"{block}.attn.qkv", (3 * hidden, hidden)) | _pair(
                f"{block}.attn.proj", (hidden, hidden)
            )
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
            attention = {
                "q": (queries, t.hidden_size),
                "k": (keys, t.hidden_size),
                "v": (keys, t.hidden_size),
                "o": (t.hidden_size, queries),
            }
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

    def content_hash(self, known: Callable[[Path], str | None] = lambda path: None) -> str:
        """Hex sha256 over the contents of all files that the engines depend on; reads every weight once.

        Args:
            known: the sha256 of a file that need not be read for it, else None.
        """
        digest = hashlib.sha256()
        for path in (*self.served_files(), *self.shards.files):
            digest.update(f"{path.name} {known(path) or sha256(path)}\n".encode())
        return digest.hexdigest()


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


def _check_facts(checkpoint: Checkpoint) -> None:
    vision, text = checkpoint.vision, checkpoint.text
    processor = Section.read(checkpoint.directory / "preprocessor_config.json")
    rules = (
        (vision.out_hidden_size == text.hidden_size,
         f"vision_config.out_hidden_size {vision.out_hidden_size} is not "
         f"text_config.hidden_size {text.hidden_size}"),
        (round(vision.num_position_embeddings**0.5) ** 2 == vision.num_position_embeddings,
         f"vision_config.num_position_embeddings {vision.num_position_embeddings} is no square number"),
        (vision.hidden_size % (4 * vision.num_heads) == 0,
         f"vision_config: hidden_size {vision.hidden_size} must be a multiple of 4 * num_heads, "
         f"{4 * vision.num_heads}"),
        (text.num_attention_heads % text.num_key_value_heads == 0,
         "text_config: num_attention_heads must be a multiple of num_key_value_heads"),
        (text.head_dim % 2 == 0, f"text_config: head_dim {text.head_dim} must be even"),
        (vision.deepstack_levels <= text.num_hidden_layers,
         f"{vision.deepstack_levels} DeepStack levels need as many decoder layers, "
         f"there are {text.num_hidden_layers}"),
        (processor.integer("patch_size", vision.patch_size) == vision.patch_size
         and processor.integer("merge_size", vision.spatial_merge_size) == vision.spatial_merge_size
         and processor.integer("temporal_patch_size", vision.temporal_patch_size)
         == vision.temporal_patch_size,
         "preprocessor_config.json: patch_size, merge_size, temporal_patch_size differ from vision_config"),
        (max(checkpoint.tokens.eos) < text.vocab_size and checkpoint.tokens.image < text.vocab_size,
         f"a special token id is not below vocab_size {text.vocab_size}"),
    )  # fmt: skip
    for holds, message in rules:
        if not holds:
            raise CheckpointError(f"{checkpoint.directory}: {message}")


def _pair(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
