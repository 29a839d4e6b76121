"""Encodes the pictures of a batch of requests together, each distinct picture once.

It knows requests, the cache, and how to pack pictures into engine calls. It does not know the engine.

The engine pads attention to the longest segment of a call (a segment: an image, or one temporal group of
frames of a video), so pictures of like size go together: the padding and the patches of a call are bounded
by the engine's `CallLimits`. Long videos are cut between temporal groups, which never see each other.

On a GPU pictures share calls: a small one alone leaves most of the GPU idle. On a CPU every picture has calls of
its own. A CPU gains nothing from larger calls (measured: the same time
per patch from 16 to 4096 patches), and then a picture's rows cannot depend on what else is in the batch. When
packed, OpenVINO gives the same rows bit by bit for f32 and bf16 weights if all segments of a call have the
same size; with padding, rows of std 0.12 move by 4e-7 (f32) and 2e-3 (bf16); with int8 weights by up to 3e-3
in both cases.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engine.manifest import Manifest
from ensemble.errors import EngineFailure
from ensemble.vision_encoder.embedding_cache import EmbeddingCache, MediaKey
from ensemble.vision_encoder.encoder import UNSHARED, CallLimits, VisionEncoder
from ensemble.vision_encoder.rows import Rows, join, zeros

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VisionRequest:
    """The media of one request; EngineFailure if they contradict each other."""

    pixel_patches: npt.NDArray[np.uint8]  # [N, K]
    grid_thw: npt.NDArray[np.int32]  # [items, 3]
    media_digest: npt.NDArray[np.uint64]  # [items, 4]

    def __post_init__(self) -> None:
        patches, grids, digests = self.pixel_patches, self.grid_thw, self.media_digest
        if not (
            patches.ndim == 2
            and grids.shape == (len(grids), 3)
            and digests.shape == (len(grids), 4)
            and len(patches) == int(grids.astype(np.int64).prod(axis=1).sum())
        ):
            raise EngineFailure(
                f"pixel_patches {list(patches.shape)}, grid_thw {grids.tolist()} and "
                f"media_digest {list(digests.shape)} do not belong together"
            )

    @classmethod
    def read(cls, tensors: Mapping[str, npt.NDArray[Any]]) -> VisionRequest:
        """Read `contract.VISION_REQUEST`; each has a leading dimension of 1."""
        return cls(tensors["pixel_patches"][0], tensors["grid_thw"][0], tensors["media_digest"][0])


@dataclass(frozen=True)
class _Item:
    key: MediaKey
    patches: npt.NDArray[np.uint8]  # [t*h*w, K]


@dataclass(frozen=True)
class _Piece:
    """Some temporal groups of an item: what an engine call is made of."""

    key: MediaKey
    patches: npt.NDArray[np.uint8]  # [groups*h*w, K]
    grid_thw: tuple[int, int, int]

    @property
    def segment_patches(self) -> int:
        return self.grid_thw[1] * self.grid_thw[2]


class BatchEncoder:
    """Encodes batches of requests. Not thread-safe: one model instance owns it.

    Args:
        encoder: the engine.
        manifest: facts of the engines.
        cache: rows of earlier pictures.
        limits: what one engine call may hold; usually `encoder.call_limits`.
    """

    def __init__(
        self,
        encoder: VisionEncoder,
        manifest: Manifest,
        cache: EmbeddingCache,
        limits: CallLimits = UNSHARED,
    ) -> None:
        self._encoder = encoder
        self._engine_hash = manifest.engine_hash
        self._merged = manifest.vision.spatial_merge_size**2
        self._limits = limits
        self.cache = cache
        one_token = (1, manifest.rows_per_visual_token, manifest.vision.out_hidden_size)
        self._no_media = zeros(one_token, manifest.table_dtype)

    def encode_batch(self, requests: Sequence[VisionRequest]) -> list[Rows | EngineFailure]:
        """Encode what the cache does not hold, and build each request's table.

        Returns:
            Per request, in order, `prompt_embedding_table` [1, (1+D)*V, H] (the rows of one visual token, all
            zero and in host memory, if it has no media), or the failure of an engine call with one of its pictures.
        """
        items = [list(self._items(request)) for request in requests]
        rows = self._rows({item.key: item for of_request in items for item in of_request})
        return [self._table([rows[item.key] for item in of_request]) for of_request in items]

    def _items(self, request: VisionRequest) -> Iterator[_Item]:
        start = 0
        for grid, digest in zip(request.grid_thw.tolist(), request.media_digest, strict=True):
            t, h, w = grid
            key = MediaKey(np.ascontiguousarray(digest).tobytes(), (t, h, w), self._engine_hash)
            yield _Item(key, request.pixel_patches[start : start + t * h * w])
            start += t * h * w

    def _rows(self, items: Mapping[MediaKey, _Item]) -> dict[MediaKey, Rows | EngineFailure]:
        """Rows [v, 1+D, H] of every item, from the cache or the engine."""
        rows: dict[MediaKey, Rows | EngineFailure] = {}
        missing: list[_Item] = []
        for key, item in items.items():
            if (held := self.cache.get(key)) is None:
                missing.append(item)
            else:
                rows[key] = held
        for key, encoded in self._encode(missing).items():
            rows[key] = encoded
            if not isinstance(encoded, EngineFailure):
                self.cache.put(key, encoded)
        return rows

    def _encode(self, items: Sequence[_Item]) -> dict[MediaKey, Rows | EngineFailure]:
        pieces = [piece for item in items for piece in _cut(item, self._limits)]
        parts: dict[MediaKey, list[Rows]] = {item.key: [] for item in items}
        failures: dict[MediaKey, EngineFailure] = {}
        for call in self._pack(pieces):
            try:
                rows = self._encoder.encode(
                    np.concatenate([piece.patches for piece in call]),
                    np.array([piece.grid_thw for piece in call], np.int32),
                )
            except (RuntimeError, MemoryError) as error:
                _log.exception("the vision engine failed on grids %s", [piece.grid_thw for piece in call])
                failures |= {piece.key: EngineFailure(f"the vision engine failed: {error}") for piece in call}
                continue
            ends = np.cumsum([len(piece.patches) // self._merged for piece in call])
            for piece, start, end in zip(call, (0, *ends), ends, strict=False):
                parts[piece.key].append(rows[start:end])
        # Joined also when there is one part: the cache wants rows that own their memory.
        return {key: failures.get(key) or join(parts[key]) for key in parts}

    def _pack(self, pieces: Sequence[_Piece]) -> list[list[_Piece]]:
        """Sort pieces into engine calls; pieces of one item keep their order."""
        if self._limits.max_padding is None:
            return [[piece] for piece in pieces]
        return _share_calls(pieces, self._limits, self._limits.max_padding)

    def _table(self, rows: Sequence[Rows | EngineFailure]) -> Rows | EngineFailure:
        good: list[Rows] = []
        for of_item in rows:
            if isinstance(of_item, EngineFailure):
                return of_item
            good.append(of_item)
        table = join(good) if good else self._no_media
        return table.reshape(1, -1, table.shape[-1])


def _cut(item: _Item, limits: CallLimits) -> Iterator[_Piece]:
    t, h, w = item.key.grid_thw
    groups = max(1, min(limits.max_patches // (h * w), limits.max_segments or t))
    for first in range(0, t, groups):
        last = min(first + groups, t)
        yield _Piece(item.key, item.patches[first * h * w : last * h * w], (last - first, h, w))


def _share_calls(pieces: Sequence[_Piece], limits: CallLimits, max_padding: float) -> list[list[_Piece]]:
    """Put pieces of like segment sizes into the same call."""
    calls: list[list[_Piece]] = []
    patches = segments = 0
    # Sorting is stable, and all pieces of an item have the same segment size.
    for piece in sorted(pieces, key=lambda piece: -piece.segment_patches):
        patches += len(piece.patches)
        segments += piece.grid_thw[0]
        if calls:
            padding = segments * calls[-1][0].segment_patches - patches
            fits = patches <= limits.max_patches and segments <= (limits.max_segments or segments)
            if fits and padding <= max_padding * patches:
                calls[-1].append(piece)
                continue
        calls.append([piece])
        patches, segments = len(piece.patches), piece.grid_thw[0]
    return calls
