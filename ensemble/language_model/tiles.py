"""Whether a deployment keeps a second form of the language model's weights, for matrix tiles (AMX).

It knows processors, memory and the configuration; it compiles nothing. What the form is: build_engine.token_scales,
and build_engine.feed_forward for bf16 weights.
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
_PART: Final = 8
_TIMES: Final = {"int8": 1, "int4": 3}
"""Memory of the second form, in sizes of the weights' file; those of int4 are int8 numbers, made while they load."""
_WORTH_BYTES: Final = 64 << 20


def wants_tiles(config: DeploymentConfig, manifest: Manifest) -> bool:
    """What `config.matrix_tiles` comes to here.

    "auto" takes the form where it is known to be faster and costs little: int8 or int4 weights with a u8 cache, on a
    processor with tiles, if the file has at least 64 MB and the form takes at most an eighth of the memory.

    Raises:
        ValueError: another word. That "on" is impossible for these engines is told when they are loaded.
    """
    from build_engine.openvino_ir import has_tiles, weights_bytes

    if config.matrix_tiles not in _ALLOWED:
        raise ValueError(f"matrix_tiles {config.matrix_tiles!r}; allowed: {', '.join(_ALLOWED)}")
    if config.matrix_tiles != "auto":
        return config.matrix_tiles == "on"
    if manifest.weights not in _TIMES or config.kv_cache_dtype not in ("auto", "u8") or not has_tiles():
        return False
    stored = weights_bytes(config.engines)
    extra = stored * _TIMES[manifest.weights]
    wanted = stored >= _WORTH_BYTES and extra <= memory_limit() // _PART
    logger.info("matrix tiles for prompts: %s, %d MB of memory", "on" if wanted else "off", extra >> 20)
    return wanted
