"""How many KV blocks a deployment gets. It knows memory and limits; it allocates nothing."""

from __future__ import annotations

import os
from pathlib import Path

from build_engine.manifest import Manifest
from ensemble.config import DeploymentConfig
from ensemble.language_model.block_manager import BLOCK_SIZE
from ensemble.language_model.sequence import blocks_for

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def kv_blocks(
    config: DeploymentConfig, manifest: Manifest, bytes_per_block: int, memory_bytes: int | None = None
) -> int:
    """Blocks of `config.kv_cache_bytes`.

    0 bytes mean: enough for max_batch_size sequences of max_seq_len tokens, at most a quarter of the memory.
    `bytes_per_block` counts the keys and values of all layers; `memory_bytes` is what the machine (or the
    container) has, asked for when None. Raises ValueError when not even one block fits.
    """
    wanted = manifest.limits.max_batch_size * blocks_for(manifest.limits.max_seq_len)
    budget = config.kv_cache_bytes or (memory_limit() if memory_bytes is None else memory_bytes) // 4
    fitting = budget // bytes_per_block
    if fitting < 1:
        raise ValueError(
            f"a KV cache of {budget} bytes holds no block: "
            f"{BLOCK_SIZE} tokens of this engine take {bytes_per_block} bytes; raise kv_cache_bytes"
        )
    return fitting if config.kv_cache_bytes else min(wanted, fitting)


def memory_limit() -> int:
    """Bytes of memory that this process may use: the machine's, or the container's if that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            memory = min(memory, int(text))
    return memory
