"""A fake; see the package."""

from __future__ import annotations

from typing import Any


class KvCacheConfig:
    """Keeps what it is given."""

    def __init__(self, enable_block_reuse: bool, free_gpu_memory_fraction: float) -> None:
        self.values: dict[str, Any] = {
            "enable_block_reuse": enable_block_reuse,
            "free_gpu_memory_fraction": free_gpu_memory_fraction,
        }
