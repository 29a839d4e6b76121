"""The size of the KV cache follows the deployment, the engine's limits and the memory, in this order."""

from __future__ import annotations

import pytest

from ensemble.config import DeploymentConfig
from ensemble.language_model.kv_cache import kv_blocks, memory_limit
from tests import fakes

MANIFEST = fakes.manifest(max_batch_size=8, max_seq_len=330)


def test_configured_bytes_are_used_whole() -> None:
    assert kv_blocks(DeploymentConfig(kv_cache_bytes=10_500), MANIFEST, bytes_per_block=1000) == 10


def test_by_default_every_sequence_may_reach_its_full_length() -> None:
    assert kv_blocks(DeploymentConfig(), MANIFEST, bytes_per_block=1000, memory_bytes=10**9) == 8 * 11


def test_by_default_at_most_a_quarter_of_the_memory_is_taken() -> None:
    assert kv_blocks(DeploymentConfig(), MANIFEST, bytes_per_block=1000, memory_bytes=80_000) == 20


def test_a_cache_without_a_single_block_is_an_error_that_says_what_a_block_takes() -> None:
    with pytest.raises(ValueError, match="take 1000 bytes"):
        kv_blocks(DeploymentConfig(kv_cache_bytes=999), MANIFEST, bytes_per_block=1000)


def test_the_memory_limit_is_that_of_this_machine_or_less() -> None:
    assert 1 << 28 < memory_limit() < 1 << 50
