"""What an engine takes of a GPU's memory, and how many sequences fit.

Pure arithmetic on the shapes in config.json. Weights, KV cache, prompt table and MRoPE are exact sums; activations and
what the runtime keeps are estimates, and say so. The sums are for the first GPU, which also holds the vision encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Final

from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Limits, TextFacts
from build_engine.tower_shapes import random_tower
from build_engine.trtllm.options import EngineOptions

# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, tie_word_embeddings, from the text_config of
# Qwen/Qwen3-VL-{2B,4B,8B,32B}-Instruct. All have 8 KV heads of 128 and 151936 words.
PUBLIC: Final = {
    "2b": (2048, 6144, 28, 16, True),
    "4b": (2560, 9728, 36, 32, True),
    "8b": (4096, 12288, 36, 32, False),
    "32b": (5120, 25600, 64, 64, False),
}
TOKENS_PER_BLOCK: Final = 32
"""Tokens of one KV block, TensorRT-LLM's default."""

# Bytes of one value of a decoder layer's matrix, with what a group stores beside its values (a 2-byte scale for 128
# values; GPTQ also a zero point). One scale per row or matrix is too small to count.
_MATRIX_BYTES = {
    "bf16": 2, "fp16": 2, "int8": 1, "int4": 0.5, "fp8": 1, "int8_sq": 1,
    "int4_awq": 0.5 + 2 / 128, "w4a8_awq": 0.5 + 2 / 128, "gptq": 0.5 + 4 / 128,
}  # fmt: skip
_VALUE_BYTES = 2  # bfloat16 or float16: embeddings, norms, activations, the prompt table
_KV_CACHE_BYTES = {"auto": _VALUE_BYTES, "fp8": 1, "int8": 1}

# Estimates. A process that uses CUDA keeps about 0.5 GB (context, kernels, cuBLAS); the server and the vision encoder's
# Python process are two.
_PROCESS_BYTES = 512 << 20
_PROCESSES = 2
# Triton's --cuda-memory-pool-byte-size and the encoder's embedding cache, at their defaults.
_POOL_BYTES = 256 << 20
_EMBEDDING_CACHE_BYTES = 256 << 20
# Float32 copies of the logits that sampling keeps: raw, penalised, probabilities, sorted.
_LOGITS_COPIES = 4
# Parts beside the KV cache that may be there before it is made, and shrink it.
_LOADED = ("vision encoder", "vision process")


@dataclass(frozen=True)
class Part:
    """One thing that takes GPU memory: its bytes, and the sum in words."""

    name: str
    bytes: int
    why: str


@dataclass(frozen=True)
class Plan:
    """What one GPU holds.

    Attributes:
        engine: parts that are there once the language model is loaded, before the KV cache is made.
        beside: parts that come with the vision encoder and with requests. They live in what the KV cache leaves.
        kv_bytes_per_token: of this GPU's share of the heads.
        kv_blocks: blocks of TOKENS_PER_BLOCK tokens in the cache, if the vision encoder is loaded before it is made.
        free: bytes left once the engine is loaded; negative: it does not fit.
        highest_fraction: the largest kv_cache_free_gpu_mem_fraction that leaves room for `beside`.
    """

    engine: tuple[Part, ...]
    beside: tuple[Part, ...]
    kv_bytes_per_token: int
    kv_blocks: int
    free: int
    highest_fraction: float

    def sequences(self, length: int) -> int:
        """Sequences of `length` tokens that the cache holds at once."""
        return self.kv_blocks // -(-length // TOKENS_PER_BLOCK)


def public_checkpoint(size: str) -> Checkpoint:
    """The shapes of a public checkpoint, a key of PUBLIC; its weights are nowhere."""
    hidden, intermediate, layers, heads, tied = PUBLIC[size]
    tower = random_tower(size)
    text = TextFacts(151936, hidden, layers, heads, 8, 128, 5e6, (24, 20, 20), 262144)
    architecture = replace(tower.architecture, text_intermediate_size=intermediate, tie_word_embeddings=tied)
    return replace(tower, text=text, architecture=architecture)


def plan(
    checkpoint: Checkpoint, limits: Limits, options: EngineOptions, memory: int, fraction: float
) -> Plan:
    """Add up what an engine takes.

    Args:
        checkpoint: whose shapes; no weight is read.
        limits: what the engine holds.
        options: how it is built; must have passed `options.check`.
        memory: bytes of one GPU.
        fraction: kv_cache_free_gpu_mem_fraction of the deployment.
    """
    text = checkpoint.text
    engine = tuple(_engine(checkpoint, limits, options))
    beside = tuple(_beside(checkpoint, limits))
    loaded_first = sum(part.bytes for part in beside if part.name in _LOADED)
    free = memory - sum(part.bytes for part in engine)
    kv_heads = text.num_key_value_heads // options.tp_size
    per_token = (
        2 * text.num_hidden_layers * kv_heads * text.head_dim * _KV_CACHE_BYTES[options.kv_cache_dtype]
    )
    pool = max(0, free - loaded_first) * fraction
    return Plan(
        engine=engine,
        beside=beside,
        kv_bytes_per_token=per_token,
        kv_blocks=int(pool // (per_token * TOKENS_PER_BLOCK)),
        free=free,
        highest_fraction=1 - sum(part.bytes for part in beside) / free if free > 0 else 0.0,
    )


def fits(made: Plan, limits: Limits, fraction: float) -> bool:
    """Whether at least one sequence of max_seq_len fits, and everything else beside the KV cache."""
    return made.sequences(limits.max_seq_len) > 0 and fraction <= made.highest_fraction


def weight_bytes(checkpoint: Checkpoint, options: EngineOptions) -> int:
    """Bytes of the language model's weights on one GPU.

    Norms are on every GPU, and so is the embedding unless ModelOpt exports it, which splits it; the head is split. Tied,
    the head is the embedding on a single GPU, and a split copy of it on several.
    """
    total = 0.0
    for name, shape in checkpoint.text_tensors().items():
        if len(shape) == 1:
            total += prod(shape) * _VALUE_BYTES
        elif name.endswith("embed_tokens.weight"):
            total += prod(shape) * _VALUE_BYTES / (options.tp_size if options.needs_calibration else 1)
        elif name == "lm_head.weight":
            total += prod(shape) * _VALUE_BYTES / options.tp_size
        else:
            total += prod(shape) * _MATRIX_BYTES[options.weights] / options.tp_size
    if checkpoint.architecture.tie_word_embeddings and options.tp_size > 1:
        total += checkpoint.text.vocab_size * checkpoint.text.hidden_size * _VALUE_BYTES / options.tp_size
    return round(total)


def _engine(checkpoint: Checkpoint, limits: Limits, options: EngineOptions) -> Iterator[Part]:
    text, shared = checkpoint.text, options.tp_size
    rows = 1 + checkpoint.vision.deepstack_levels
    slot = rows * limits.max_visual_tokens * text.hidden_size * _VALUE_BYTES
    count = sum(prod(shape) for shape in checkpoint.text_tensors().values())
    yield Part(
        "language model",
        weight_bytes(checkpoint, options),
        f"{count:,} parameters in {options.weights}" + f", split over {shared} GPUs" * (shared > 1),
    )
    yield Part(
        "prompt table",
        limits.max_batch_size * slot,
        f"{limits.max_batch_size} slots of {limits.max_visual_tokens} visual tokens, {rows} rows of {text.hidden_size} each",
    )
    cos_sin = limits.max_seq_len * text.head_dim * 4
    # One table in the engine for generated tokens, one for each sequence of a step, one that its request keeps.
    yield Part(
        "MRoPE tables",
        (1 + 2 * limits.max_batch_size) * cos_sin,
        f"{1 + 2 * limits.max_batch_size} of {limits.max_seq_len} positions, float32 cos and sin",
    )
    yield Part(
        "activations",
        _activation_bytes(checkpoint, limits, options),
        f"estimate: {limits.max_num_tokens} tokens in the widest layer, and the logits",
    )
    yield Part(
        "server process", _PROCESS_BYTES + _POOL_BYTES, "estimate: CUDA context, libraries, Triton's pool"
    )


def _activation_bytes(checkpoint: Checkpoint, limits: Limits, options: EngineOptions) -> int:
    """The residual stream, a norm and a DeepStack row of every token, its gate, up and inner product in the MLP, its
    queries, keys, values and attention output; and the logits of every sequence.
    """
    text, inner = checkpoint.text, checkpoint.architecture.text_intermediate_size
    heads = 2 * text.num_attention_heads + 2 * text.num_key_value_heads
    split = (3 * inner + heads * text.head_dim) / options.tp_size
    a_token = (3 * text.hidden_size + split) * _VALUE_BYTES
    logits = limits.max_batch_size * text.vocab_size * 4 * _LOGITS_COPIES
    return round(limits.max_num_tokens * a_token + logits)


def _beside(checkpoint: Checkpoint, limits: Limits) -> Iterator[Part]:
    vision, text = checkpoint.vision, checkpoint.text
    rows = 1 + vision.deepstack_levels
    slot = rows * limits.max_visual_tokens * text.hidden_size * _VALUE_BYTES
    count = sum(prod(shape) for shape in checkpoint.vision_tensors().values())
    yield Part("vision encoder", count * _VALUE_BYTES, f"{count:,} parameters, 2 bytes each")
    patches = limits.max_visual_tokens * vision.spatial_merge_size**2
    # In a block: the residual stream, a float32 norm, queries, keys, values, the same three and the output by segment.
    a_patch = vision.hidden_size * (_VALUE_BYTES * 8 + 4)
    yield Part(
        "vision activations",
        patches * (a_patch + vision.patch_values),
        f"estimate: {patches} patches in one call; pictures of unequal size in one call take more",
    )
    yield Part(
        "vision process",
        _PROCESS_BYTES + _EMBEDDING_CACHE_BYTES,
        "estimate: CUDA context; the embedding cache",
    )
    yield Part(
        "live requests",
        limits.max_batch_size * slot,
        f"their own prompt tables: {limits.max_batch_size} with {limits.max_visual_tokens} visual tokens",
    )
