"""What a deployment makes of the language model's weights for matrix tiles (AMX): a second form, or fused networks.

It knows processors, memory and the configuration; it compiles nothing. What these are: build_engine.token_scales,
and for bf16 weights build_engine.parts and build_engine.feed_forward.
"""

from __future__ import annotations

import logging
from typing import Final

from build_engine.manifest import Manifest
from ensemble.config import DeploymentConfig
from ensemble.language_model.kv_cache import memory_limit

logger = logging.getLogger(__name__)

LARGE: Final = 32
"""Tokens of a step from which on the form for tiles is the faster one."""
_ALLOWED: Final = ("auto", "on", "off")
_TIMES: Final = {"int8": 1, "int4": 3, "bf16": 1.6}
"""Memory of the second form, in sizes of the weights' file; those of int4 are int8 numbers, made while they load."""
_PARTS: Final = {"int8": 8, "int4": 8, "bf16": 4}
"""It may take this part of the memory, one of so many: weights of bf16, once fused, and a KV cache take up to three others."""
_CACHES: Final = {"int8": ("auto", "u8"), "int4": ("auto", "u8"), "bf16": ("auto", "u8", "bf16")}
_FUSED_PART: Final = 8
_FEED_FORWARD: Final = 0.67
"""Part of the weights that belongs to feed-forward networks, at most (0.61 at 2B, 0.67 at 4B, 0.66 at 8B)."""
_WORTH_BYTES: Final = 64 << 20


def wants_tiles(config: DeploymentConfig, manifest: Manifest) -> bool:
    """What `config.matrix_tiles` comes to here.

    "auto" takes the form where it is faster and costs little, on a processor with tiles: int8 or int4 weights with a u8 cache,
    if the file has at least 64 MB and the form takes at most an eighth of the memory; bf16 weights, if it takes at most a
    quarter and steps are worth it. Whether it is the faster one is measured for bf16 as the engine is loaded.

    Raises:
        ValueError: another word. That "on" is impossible for these engines is told when they are loaded.
    """
    from build_engine.openvino_ir import WORTH_TOKENS, has_tiles, tile_tokens

    if config.matrix_tiles not in _ALLOWED:
        raise ValueError(f"matrix_tiles {config.matrix_tiles!r}; allowed: {', '.join(_ALLOWED)}")
    if config.matrix_tiles != "auto":
        return config.matrix_tiles == "on"
    weights = manifest.weights
    if config.kv_cache_dtype not in _CACHES.get(weights, ()) or not has_tiles():
        return False
    if weights == "bf16" and tile_tokens(manifest) < WORTH_TOKENS:
        return False
    return _is_cheap("matrix tiles for prompts", config, _TIMES[weights], _PARTS[weights])


def wants_fused(config: DeploymentConfig, manifest: Manifest) -> bool:
    """Whether feed-forward networks of bf16 weights are fused, on a processor with tiles.

    Always with `config.matrix_tiles` "on", never with "off"; with "auto" if the file has at least 64 MB and this takes at most
    an eighth of the memory. Another word is refused by `wants_tiles`.
    """
    from build_engine.openvino_ir import has_tiles

    if manifest.weights != "bf16" or config.kv_cache_dtype in ("f32", "f16") or not has_tiles():
        return False
    if config.matrix_tiles != "auto":
        return config.matrix_tiles == "on"
    return _is_cheap("fused feed-forward networks", config, _FEED_FORWARD, _FUSED_PART)


def _is_cheap(what: str, config: DeploymentConfig, times: float, parts: int) -> bool:
    """Whether the engine is worth it, and `times` its file fit into one of so many parts of the memory."""
    from build_engine.openvino_ir import weights_bytes

    stored = weights_bytes(config.engines)
    extra = int(stored * times)
    wanted = stored >= _WORTH_BYTES and extra <= memory_limit() // parts
    logger.info("%s: %s, %d MB of memory", what, "on" if wanted else "off", extra >> 20)
    return wanted
