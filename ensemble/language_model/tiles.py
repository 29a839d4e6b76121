"""What a deployment makes of the language model's weights for matrix tiles (AMX): a second form, or fused networks.

It knows processors, memory and the configuration; it compiles nothing. What these are: build_engine.token_scales
and build_engine.integer_parts, and for bf16 weights build_engine.parts and build_engine.feed_forward.
"""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from build_engine.manifest import Manifest
from ensemble.config import DeploymentConfig
from ensemble.language_model.kv_cache import memory_limit

logger = logging.getLogger(__name__)

LARGE: Final = 32
"""Tokens of a step from which on the form for tiles is the faster one."""
_ALLOWED: Final = ("auto", "on", "off")


class _Form(NamedTuple):
    """The second form of weights of a kind.

    Attributes:
        times: its memory, in sizes of the weights' file.
        part: of the memory that it may take: one of so many.
        caches: KV caches that it has arithmetic for.
    """

    times: float
    part: int
    caches: tuple[str, ...]


_FORMS: Final = {
    "int8": _Form(times=1.25, part=6, caches=("auto", "u8")),
    "int4": _Form(times=3, part=6, caches=("auto", "u8")),  # of int8 numbers, made while they load
    # These weights, once fused, and a KV cache take up to three other quarters.
    "bf16": _Form(times=1.6, part=4, caches=("auto", "u8", "bf16")),
}
_FUSED_PART: Final = 8
_FEED_FORWARD: Final = 0.67
"""Part of the weights that belongs to feed-forward networks, at most (0.61 at 2B, 0.67 at 4B, 0.66 at 8B)."""
_WORTH_BYTES: Final = 64 << 20


def wants_tiles(config: DeploymentConfig, manifest: Manifest) -> bool:
    """What `config.matrix_tiles` comes to here.

    "auto" takes the form where it is faster and costs little, on a processor with tiles: int8 or int4 weights with a u8 cache,
    if the file has at least 64 MB and the form takes at most a sixth of the memory; bf16 weights, if it takes at most a
    quarter and steps are worth it. Whether it is the faster one is measured for bf16 as the engine is loaded.

    Raises:
        ValueError: another word. That "on" is impossible for these engines is told when they are loaded.
    """
    from build_engine.openvino_ir import WORTH_TOKENS, has_tiles, tile_tokens

    if config.matrix_tiles not in _ALLOWED:
        raise ValueError(f"matrix_tiles {config.matrix_tiles!r}; allowed: {', '.join(_ALLOWED)}")
    if config.matrix_tiles != "auto":
        return config.matrix_tiles == "on"
    form = _FORMS.get(manifest.weights)
    if form is None or config.kv_cache_dtype not in form.caches or not has_tiles():
        return False
    if manifest.weights == "bf16" and tile_tokens(manifest) < WORTH_TOKENS:
        return False
    return _is_cheap("matrix tiles for prompts", config, form.times, form.part)


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


def _is_cheap(what: str, config: DeploymentConfig, times: float, part: int) -> bool:
    """Whether the engine is worth it, and `times` its file fit into a part of the memory, one of so many."""
    from build_engine.openvino_ir import weights_bytes

    stored = weights_bytes(config.engines)
    extra = int(stored * times)
    wanted = stored >= _WORTH_BYTES and extra <= memory_limit() // part
    logger.info("%s: %s, %d MB of memory", what, "on" if wanted else "off", extra >> 20)
    return wanted
