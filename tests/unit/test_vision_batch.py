"""Batches of pictures with an encoder in memory: packing, sharing, the cache, isolation of failures."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from build_engine.manifest import Limits, Manifest, TextFacts, TokenIds, VisionFacts
from ensemble.errors import EngineFailure
from ensemble.vision_encoder.batch import BatchEncoder, VisionRequest
from ensemble.vision_encoder.embedding_cache import EmbeddingCache, MediaKey
from ensemble.vision_encoder.encoder import CallLimits

K, H, D = 12, 4, 2
MANIFEST = Manifest(
    target="openvino",
    weights="f32",
    checkpoint_hash="c",
    engine_hash="engine-1",
    vision=VisionFacts(2, 1, 2, 3, 32, 2, 2, 64, H, D, (0.5,) * 3, (0.5,) * 3, 1 / 255),
    text=TextFacts(258, H, 2, 2, 1, 8, 1e4, (2, 1, 1), 256),
    tokens=TokenIds((256,), 256, 250, 251, 252, 253),
    limits=Limits(4, 200, 256, 64, 100),
    versions={},
    files={},
)
Grid = tuple[int, int, int]


class MemoryEncoder:
    """Rows that tell the four patches, the level and the segment shape they came from."""

    def __init__(self) -> None:
        self.calls: list[list[Grid]] = []
        self.fails_on: Grid | None = None

    def encode(
        self, patches: npt.NDArray[np.uint8], grid_thw: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        grids = [tuple(grid) for grid in grid_thw.tolist()]
        self.calls.append(grids)
        if any(grid[1:] == self.fails_on[1:] for grid in grids if self.fails_on):
            raise RuntimeError("out of memory")
        assert len(patches) == sum(t * h * w for t, h, w in grids)
        merged = patches.reshape(-1, 4 * K).astype(np.float32) @ np.arange(4 * K, dtype=np.float32)
        shape = np.concatenate([np.full(t * h * w // 4, 1000 * h + w) for t, h, w in grids])
        rows = np.zeros((len(merged), 1 + D, H), np.float32)
        rows[:, :, 0], rows[:, :, 1], rows[:, :, 2] = merged[:, None], shape[:, None], np.arange(1 + D)
        return rows


def request(*media: tuple[Grid, int]) -> VisionRequest:
    """Media by grid and seed: equal pairs have equal pixels and digests."""
    patches = [
        np.random.default_rng(seed).integers(0, 256, (t * h * w, K), np.uint8) for (t, h, w), seed in media
    ]
    digests = [np.frombuffer(hashlib.sha256(p.tobytes()).digest(), np.uint64) for p in patches]
    return VisionRequest(
        np.concatenate([np.zeros((0, K), np.uint8), *patches]),
        np.array([grid for grid, _ in media], np.int32).reshape(-1, 3),
        np.array(digests, np.uint64).reshape(-1, 4),
    )


class TorchEncoder(MemoryEncoder):
    """The same rows as tensors, as the encoder on a GPU gives them."""

    def encode(self, patches: npt.NDArray[np.uint8], grid_thw: npt.NDArray[np.int32]) -> Any:
        return torch.from_numpy(super().encode(patches, grid_thw))


def make(
    budget_bytes: int = 1 << 20,
    max_patches: int = 1000,
    max_padding: float | None = None,
    max_segments: int | None = None,
    encoder: MemoryEncoder | None = None,
) -> tuple[BatchEncoder, MemoryEncoder]:
    encoder = encoder or MemoryEncoder()
    limits = CallLimits(max_patches, max_segments, max_padding)
    return BatchEncoder(encoder, MANIFEST, EmbeddingCache(budget_bytes), limits), encoder


def expected(of: VisionRequest) -> npt.NDArray[np.float32]:
    return MemoryEncoder().encode(of.pixel_patches, of.grid_thw).reshape(1, -1, H)


def tables(results: Sequence[npt.NDArray[np.float32] | EngineFailure]) -> list[npt.NDArray[np.float32]]:
    assert not any(isinstance(result, EngineFailure) for result in results)
    return [result for result in results if not isinstance(result, EngineFailure)]


def test_each_request_gets_its_own_rows_in_its_own_order() -> None:
    batch, encoder = make(max_padding=10)
    requests = [request(((1, 4, 6), 1), ((1, 2, 2), 2), ((3, 4, 2), 3)), request(((1, 8, 8), 4)), request()]
    first, second, text_only = tables(batch.encode_batch(requests))
    np.testing.assert_array_equal(first, expected(requests[0]))
    np.testing.assert_array_equal(second, expected(requests[1]))
    assert len(encoder.calls) == 1
    assert text_only.shape == (1, 1 + D, H)
    assert not text_only.any()
    assert text_only.dtype == np.float32


@pytest.mark.parametrize("engine", [MemoryEncoder, TorchEncoder])
@pytest.mark.parametrize("max_padding", [None, 0.0, 0.5])
def test_random_batches_never_mix_rows_whatever_is_cached_or_cut(
    max_padding: float | None, engine: type[MemoryEncoder]
) -> None:
    dice = random.Random(5)
    batch, encoder = make(3000, 40, max_padding, encoder=engine())
    for _ in range(300):
        requests = [
            request(
                *[
                    (
                        (dice.choice([1, 1, 5]), 2 * dice.randrange(1, 5), 2 * dice.randrange(1, 5)),
                        dice.randrange(4),
                    )
                    for _ in range(dice.randrange(4))
                ]
            )
            for _ in range(dice.randrange(1, 5))
        ]
        for of, table in zip(requests, tables(batch.encode_batch(requests)), strict=True):
            if len(of.grid_thw):
                np.testing.assert_array_equal(table, expected(of))
    assert batch.cache.hits > 30
    assert batch.cache.evictions > 100
    padded = [call for call in encoder.calls if len({h * w for _, h, w in call}) > 1]
    assert bool(padded) == bool(max_padding)
    assert any(len(call) > 1 for call in encoder.calls) == (max_padding is not None)


def test_equal_pictures_of_a_batch_are_encoded_once_and_later_not_at_all() -> None:
    batch, encoder = make()
    one = ((1, 4, 4), 1)
    tables(batch.encode_batch([request(one, one), request(one)]))
    assert encoder.calls == [[(1, 4, 4)]]
    tables(batch.encode_batch([request(one)]))
    assert len(encoder.calls) == 1
    assert (batch.cache.hits, batch.cache.misses) == (1, 1)
    assert batch.cache.size_bytes == 4 * (1 + D) * H * 4


def test_calls_bound_padding_and_patches() -> None:
    batch, encoder = make(max_patches=600, max_padding=0.25)
    media = [
        ((1, 16, 16), 1),
        ((1, 2, 2), 2),
        ((1, 32, 32), 3),
        ((1, 14, 16), 4),
        ((1, 30, 32), 5),
        ((1, 4, 2), 6),
    ]
    tables(batch.encode_batch([request(item) for item in media]))
    for call in encoder.calls:
        patches = sum(t * h * w for t, h, w in call)
        assert len(call) == 1 or patches <= 600
        padded = sum(t for t, _, _ in call) * max(h * w for _, h, w in call)
        assert padded - patches <= 0.25 * patches
    assert sorted(len(call) for call in encoder.calls) == [1, 1, 1, 1, 2]


def test_calls_bound_segments_and_long_videos_are_cut_for_it() -> None:
    batch, encoder = make(max_padding=0.0, max_segments=3)
    requests = [request(((7, 4, 4), 1)), request(*[((1, 2, 2), seed) for seed in range(2, 9)])]
    for of, table in zip(requests, tables(batch.encode_batch(requests)), strict=True):
        np.testing.assert_array_equal(table, expected(of))
    segments = [sum(t for t, _, _ in call) for call in encoder.calls]
    assert sorted(segments) == [1, 1, 3, 3, 3, 3]


def test_every_picture_has_calls_of_its_own_unless_told_otherwise() -> None:
    batch, encoder = make()
    tables(batch.encode_batch([request(((1, 4, 4), 1), ((1, 4, 4), 2)), request(((1, 4, 4), 3))]))
    assert encoder.calls == [[(1, 4, 4)]] * 3


def test_a_long_video_is_cut_between_temporal_groups() -> None:
    batch, encoder = make(max_patches=40)
    video = request(((7, 4, 4), 1))
    (table,) = tables(batch.encode_batch([video]))
    np.testing.assert_array_equal(table, expected(video))
    assert encoder.calls == [[(2, 4, 4)], [(2, 4, 4)], [(2, 4, 4)], [(1, 4, 4)]]


def test_a_failing_picture_fails_its_requests_alone() -> None:
    batch, encoder = make()
    encoder.fails_on = (1, 16, 16)
    bad, good = ((1, 16, 16), 1), ((1, 2, 2), 2)
    requests = [request(good, bad), request(((1, 4, 16), 3)), request()]
    encoder_failed, fine, text_only = batch.encode_batch(requests)
    assert isinstance(encoder_failed, EngineFailure)
    assert "out of memory" in str(encoder_failed)
    assert not isinstance(text_only, EngineFailure)
    np.testing.assert_array_equal(fine, expected(requests[1]))
    encoder.fails_on = None
    (again,) = tables(batch.encode_batch([requests[0]]))
    np.testing.assert_array_equal(again, expected(requests[0]))


def test_tensors_that_contradict_each_other_are_refused() -> None:
    good = request(((1, 4, 4), 1))
    with pytest.raises(EngineFailure, match="do not belong together"):
        VisionRequest(good.pixel_patches[:-1], good.grid_thw, good.media_digest)
    with pytest.raises(EngineFailure, match="do not belong together"):
        dataclasses.replace(good, media_digest=good.media_digest[:, :3])


def test_tensors_of_the_contract_are_read_without_their_leading_dimension() -> None:
    of = request(((1, 4, 4), 1))
    read = VisionRequest.read(
        {
            "pixel_patches": of.pixel_patches[None],
            "grid_thw": of.grid_thw[None],
            "media_digest": of.media_digest[None],
        }
    )
    np.testing.assert_array_equal(read.pixel_patches, of.pixel_patches)


def key(name: str, grid: Grid = (1, 2, 2), engine: str = "e") -> MediaKey:
    return MediaKey(hashlib.sha256(name.encode()).digest(), grid, engine)


def rows(count: int) -> npt.NDArray[np.float32]:
    return np.ones((count, 1, 1), np.float32)


def test_the_cache_drops_what_was_used_least_recently_and_counts() -> None:
    cache = EmbeddingCache(budget_bytes=12)
    for name in "abc":
        cache.put(key(name), rows(1))
    assert cache.get(key("a")) is not None
    cache.put(key("d"), rows(1))
    assert cache.get(key("b")) is None
    assert [cache.get(key(name)) is not None for name in "acd"] == [True] * 3
    assert (cache.hits, cache.misses, cache.evictions, cache.size_bytes, len(cache)) == (4, 1, 1, 12, 3)
    cache.put(key("e"), rows(3))
    assert (cache.size_bytes, len(cache), cache.evictions) == (12, 1, 4)
    cache.put(key("f"), rows(4))
    assert cache.get(key("f")) is None, "larger than the budget"
    assert len(cache) == 1


def test_the_cache_tells_grids_and_engines_apart() -> None:
    cache = EmbeddingCache(1000)
    cache.put(key("a"), rows(1))
    assert cache.get(key("a", grid=(1, 1, 4))) is None
    assert cache.get(key("a", engine="other")) is None


def test_a_budget_of_zero_turns_the_cache_off() -> None:
    batch, encoder = make(budget_bytes=0)
    for _ in range(2):
        tables(batch.encode_batch([request(((1, 2, 2), 1))]))
    assert len(encoder.calls) == 2
    assert batch.cache.size_bytes == 0


def test_a_budget_in_gpu_memory_counts_bytes_of_tensors_and_evicts() -> None:
    one_token = (1 + D) * H * 4
    batch, encoder = make(budget_bytes=6 * one_token, encoder=TorchEncoder())
    for seed in range(3):
        tables(batch.encode_batch([request(((1, 4, 4), seed))]))
    assert batch.cache.size_bytes == 4 * one_token
    assert batch.cache.evictions == 2
    tables(batch.encode_batch([request(((1, 4, 4), 2))]))
    assert len(encoder.calls) == 3


@pytest.mark.parametrize("table_dtype", ["BF16", "FP16"])
def test_a_text_only_request_gets_a_row_of_the_engines_type(table_dtype: str) -> None:
    manifest = dataclasses.replace(MANIFEST, table_dtype=table_dtype)
    (table,) = BatchEncoder(TorchEncoder(), manifest, EmbeddingCache(0)).encode_batch([request()])
    assert table.dtype == {"BF16": torch.bfloat16, "FP16": torch.float16}[table_dtype]
    assert table.shape == (1, 1 + D, H)
    assert not table.any()


def test_rows_that_share_memory_with_others_are_not_kept() -> None:
    cache = EmbeddingCache(1000)
    for shared in (rows(4)[:2], torch.ones(4, 1, 1)[:2]):
        with pytest.raises(ValueError, match="share memory"):
            cache.put(key("a"), shared)
    cache.put(key("b"), torch.ones(2, 1, 1))
    assert (len(cache), cache.size_bytes) == (1, 8)


def test_cached_tensors_cannot_be_changed_through_a_table() -> None:
    batch, _ = make(encoder=TorchEncoder())
    one = request(((1, 2, 2), 1))
    (table,) = tables(batch.encode_batch([one]))
    table[:] = 0
    (again,) = tables(batch.encode_batch([one]))
    np.testing.assert_array_equal(again, expected(one))


def test_cached_rows_cannot_be_changed_through_a_table() -> None:
    batch, _ = make()
    one = request(((1, 2, 2), 1))
    (table,) = tables(batch.encode_batch([one]))
    table[:] = 0
    (again,) = tables(batch.encode_batch([one]))
    np.testing.assert_array_equal(again, expected(one))
