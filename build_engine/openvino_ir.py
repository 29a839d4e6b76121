"""Loads the OpenVINO engines of an engine directory. Imported by the serving processes: no torch, no onnx.

It knows files, precisions and compile options. What the inputs mean is told in `language_model` and
`vision_plan`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import openvino as ov
from openvino import opset13 as ops

from build_engine.bfloat16 import attend_in_bfloat16, keep_bfloat16, multiply_in_bfloat16
from build_engine.feed_forward import fuse_feed_forward
from build_engine.integer_parts import MOST_TOKENS, split_networks
from build_engine.logsumexp import add_logsumexp
from build_engine.manifest import TOKENS_PER_BLOCK, Manifest, TextFacts
from build_engine.parts import most_tokens, split_products
from build_engine.token_scales import round_activations

BLOCK_SIZE: Final = TOKENS_PER_BLOCK
"""Tokens of one KV cache block; the CPU plugin knows no other size."""

LANGUAGE_MODEL: Final = "language_model/model.xml"
VISION_ENCODER: Final = "vision_encoder/model.xml"
VISION_ENCODER_ONNX: Final = "vision_encoder/model.onnx"
_CPU: Final = Path("/proc/cpuinfo")
_KV_CACHE_DTYPES: Final = ("f32", "bf16", "f16", "u8")
WORTH_TOKENS: Final = 64
"""Fewer tokens a step are not worth a second form of bf16 weights."""
_ACTIVATION_GROUP: Final = 128
"""Activations that share one scale when they meet int8 or int4 weights as int8.

Integer products are what processors with VNNI are fast at: at the 2B shape on AVX-512 (AMD EPYC) decoding alone is 1.5
times, decoding eight at once 3.2 times and prefill 1.9 times as fast as with bfloat16 activations; groups of 32 reach
1.3, 2.6 and 1.5. It costs little: on the demo checkpoint the mean error of the logits, in their standard deviations, goes
from 0.011 to 0.015 (groups of 32: 0.013) for int8 weights and stays at 0.076 for int4 ones; bfloat16 weights have 0.005.

Without VNNI, OpenVINO leaves activations as they are, whatever is asked for, and widens the weights to float32: integer
products overflow there, and would not be faster (docs/decisions/0018). Without bfloat16 arithmetic it does so with bfloat16
weights (docs/decisions/0021).
"""


def load_language_model(
    directory: Path,
    manifest: Manifest,
    kv_cache_dtype: str = "auto",
    threads: int = 0,
    quantise_activations: bool = True,
    tiles: bool = False,
    fused: bool = False,
) -> ov.CompiledModel:
    """Compile the language model.

    Args:
        directory: the engine directory.
        manifest: its manifest.
        kv_cache_dtype: "auto" (f32 for f32 weights, else u8), "f32", "bf16", "f16" or "u8". OpenVINO ties the
            arithmetic to the cache: f32 and f16 caches compute in float32, a bf16 cache in bfloat16.
        threads: 0 leaves the choice to OpenVINO.
        quantise_activations: multiply int8 and int4 weights with activations rounded to int8, in groups with a scale
            of their own. It touches no other weights, and nothing with an f32 or f16 cache.
        tiles: the form for steps of many tokens, of no more than `tile_tokens`, for a processor's matrix tiles. Of int8 and
            int4 weights: activations rounded with one scale a token, int8 weights in any case, networks in parts. Of bf16
            weights: multiplied in parts. It shares its caches with the other form, but no weights.
        fused: compute each feed-forward network of bf16 weights as one operation, on matrix tiles: answers come faster, for
            the memory of these weights once more. Changes nothing with one thread, nor the form for `tiles`.

    Raises:
        ValueError: an unknown kv_cache_dtype, bf16 on a processor without it, or `tiles` where there is no such form: nothing
            is rounded, integer products overflow, bf16 without tiles or with few tokens a step. `fused` without bf16
            weights, bfloat16 arithmetic or tiles.

    The caches' element types and block shapes are read from the inputs of the result. Its outputs are the logits, and what
    `logsumexp` says of them.
    """
    core = _core()
    if kv_cache_dtype == "auto":
        kv_cache_dtype = "f32" if manifest.weights == "f32" else "u8"
    if kv_cache_dtype not in _KV_CACHE_DTYPES:
        raise ValueError(f"kv_cache_dtype {kv_cache_dtype!r}; allowed: auto, {', '.join(_KV_CACHE_DTYPES)}")
    if kv_cache_dtype == "bf16" and not _has_bfloat16(core):
        raise ValueError(
            "kv_cache_dtype 'bf16' needs a processor with bfloat16 arithmetic; use 'f32' or 'u8'"
        )
    # A float32 cache asks for float32 arithmetic; then nothing is rounded behind the caller's back.
    group = _ACTIVATION_GROUP if quantise_activations and kv_cache_dtype not in ("f32", "f16") else 0
    integers = group > 0 and manifest.weights in ("int8", "int4")
    free = "f32" if integers and has_tiles() else _precision(core, manifest)
    precision = {"f32": "f32", "f16": "f32", "bf16": "bf16", "u8": free}[kv_cache_dtype]
    if tiles:
        _check_tiles(manifest, kv_cache_dtype, integers, precision)
    if fused and not (_is_bfloat16(manifest, precision) and has_tiles()):
        raise ValueError(
            f"{manifest.weights} weights with a {kv_cache_dtype} cache are not fused here; it takes bf16 weights, a u8 or bf16 "
            "cache and a processor with matrix tiles (AMX)"
        )
    model = core.read_model(directory / LANGUAGE_MODEL)
    describe_caches(model, manifest.text)
    add_logsumexp(model)
    if tiles and integers:
        split_networks(model)
        round_activations(model)
        if _has_bfloat16(core):
            attend_in_bfloat16(model)
    elif tiles:
        split_products(model, manifest.text.hidden_size)
    elif fused and _threads(core, threads) > 1:
        fuse_feed_forward(model)
    elif not _has_bfloat16(core):
        keep_bfloat16(model)
    options = {"KV_CACHE_PRECISION": kv_cache_dtype, "DYNAMIC_QUANTIZATION_GROUP_SIZE": group}
    return _compile(core, model, precision, threads, options)


def _check_tiles(manifest: Manifest, kv_cache_dtype: str, integers: bool, precision: str) -> None:
    """Raise ValueError where there is no form for tiles."""
    halves = _is_bfloat16(manifest, precision)
    if not (integers or halves):
        raise ValueError(
            f"{manifest.weights} weights with a {kv_cache_dtype} cache have no form for matrix tiles here; it takes int8 or "
            "int4 weights, or bf16 ones on a processor with bfloat16 arithmetic, and a u8 or bf16 cache"
        )
    if integers and not has_integer_products():
        raise ValueError(
            "this processor adds int8 products in 16 bits, which overflow; the form for matrix tiles needs VNNI or AMX"
        )
    if halves and not has_tiles():
        raise ValueError("this processor has no matrix tiles (AMX), which the form of bf16 weights is for")
    if halves and tile_tokens(manifest) < WORTH_TOKENS:
        raise ValueError(
            f"a hidden size of {manifest.text.hidden_size} leaves the form for matrix tiles of bf16 weights steps of "
            f"{max(tile_tokens(manifest), 0)} tokens; it pays from {WORTH_TOKENS} on"
        )


def _is_bfloat16(manifest: Manifest, precision: str) -> bool:
    return manifest.weights == precision == "bf16"


def tile_tokens(manifest: Manifest) -> int:
    """Tokens that a step of the form for tiles may have."""
    most = most_tokens(manifest.text.hidden_size) if manifest.weights == "bf16" else MOST_TOKENS
    return min(most, manifest.limits.max_num_tokens)


def load_vision_encoder(directory: Path, manifest: Manifest, threads: int = 0) -> ov.CompiledModel:
    """Compile the vision encoder; see `load_language_model`."""
    core = _core()
    return _compile(
        core, core.read_model(directory / VISION_ENCODER), _precision(core, manifest), threads, {}
    )


def describe_caches(model: ov.Model, text: TextFacts) -> None:
    """Tell each paged attention the shape of its cache. An IR file does not keep these notes."""
    notes = {
        "num_k_heads": text.num_key_value_heads,
        "num_v_heads": text.num_key_value_heads,
        "k_head_size": text.head_dim,
        "v_head_size": text.head_dim,
    }
    for node in model.get_ordered_ops():
        if node.get_type_name() == "PagedAttentionExtension":
            info = node.get_rt_info()  # a view with item assignment only
            for name, value in notes.items():
                info[name] = value


def has_tiles() -> bool:
    """Whether the processor has matrix tiles (AMX). There OpenVINO multiplies bfloat16 activations as they are, whatever the
    group; only float32 ones are rounded to int8, and integer products are the faster ones (docs/decisions/0010).
    """
    return "amx_int8" in _flags()


def has_integer_products() -> bool:
    """Whether the processor adds int8 products in 32 bits (VNNI, AMX). Others overflow where both sides have signs."""
    return not _flags().isdisjoint({"avx512_vnni", "avx_vnni", "amx_int8"})


def _flags() -> set[str]:
    return set(_CPU.read_text().split()) if _CPU.is_file() else set()


def weights_bytes(directory: Path) -> int:
    """What the weights of the language model take in their file."""
    return (directory / LANGUAGE_MODEL).with_suffix(".bin").stat().st_size


def _core() -> ov.Core:
    """A Core that can read paged attention: the operation is known only once the CPU plugin is loaded."""
    core = ov.Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")
    return core


def _has_bfloat16(core: ov.Core) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _precision(core: ov.Core, manifest: Manifest) -> str:
    # Emulated bfloat16 is slower than float32; it is used only where the processor has it.
    return "bf16" if manifest.weights != "f32" and _has_bfloat16(core) else "f32"


def _threads(core: ov.Core, threads: int) -> int:
    """How many threads OpenVINO really takes: no more than there are cores, whatever is asked for."""
    nothing = ops.parameter(ov.PartialShape([1]), ov.Type.f32)
    model = ov.Model([ops.result(nothing)], [nothing], "nothing")
    return int(_compile(core, model, "f32", threads, {}).get_property("INFERENCE_NUM_THREADS"))


def _compile(
    core: ov.Core, model: ov.Model, precision: str, threads: int, options: dict[str, Any]
) -> ov.CompiledModel:
    config = {
        "INFERENCE_PRECISION_HINT": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        # Several processes of a server share the cores; each would pin its threads to the same ones.
        "ENABLE_CPU_PINNING": False,
        **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
        **options,
    }
    if precision == "bf16":
        multiply_in_bfloat16(model)
    return core.compile_model(model, "CPU", config)
