"""Plans the grid-dependent inputs of the vision encoder: rotary tables, position interpolation, segments.

Used at every request by the serving processes, so numpy only. It knows grids and sizes; it never sees a
pixel. The encoder works on packed patches: N patches of all images and frames of a call, one after the other,
in merge-block order (the `m x m` patches of one visual token lie together). Linear layers see [N, C].
Attention must not leak from one segment to the next, so q, k and v are gathered into [B, L] (B segments,
padded to the longest, L), padded keys are masked by `segment_length`, and the result is gathered back. A
segment is an image, or one temporal group of a video.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from build_engine.manifest import VisionFacts


@dataclass(frozen=True)
class VisionPlan:
    """Engine inputs for the grids of one call.

    Attributes:
        rotary_cos, rotary_sin: float32 [N, head_dim].
        position_index: int32 [4, N], rows of the learned position table.
        position_weight: float32 [4, N], their bilinear weights.
        gather_index: int32 [B, L], packed patch at each place of each segment; padding repeats patch 0.
        segment_length: int32 [B], patches of each segment.
        scatter_index: int32 [N], place of each packed patch in the flattened [B * L].
    """

    rotary_cos: npt.NDArray[np.float32]
    rotary_sin: npt.NDArray[np.float32]
    position_index: npt.NDArray[np.int32]
    position_weight: npt.NDArray[np.float32]
    gather_index: npt.NDArray[np.int32]
    segment_length: npt.NDArray[np.int32]
    scatter_index: npt.NDArray[np.int32]

    def inputs(self) -> dict[str, npt.NDArray[np.generic]]:
        """Input name of the engine to array; `pixel_patches` is the only one missing."""
        return dict(vars(self))


def plan(grid_thw: npt.NDArray[np.int32], vision: VisionFacts) -> VisionPlan:
    """Plan one call.

    Args:
        grid_thw: [items, 3], temporal groups, rows and columns of each image or video, in patches; rows and
        columns
            are multiples of `spatial_merge_size`. At least one item with at least one patch.
        vision: facts of the encoder.

    Raises:
        ValueError: a grid that the encoder cannot take.
    """
    if grid_thw.ndim != 2 or grid_thw.shape[1] != 3 or len(grid_thw) == 0:
        raise ValueError(f"grid_thw has shape {list(grid_thw.shape)}, [items, 3] with items > 0 is needed")
    grids = [(int(t), int(h), int(w)) for t, h, w in grid_thw]
    merge = vision.spatial_merge_size
    for t, h, w in grids:
        if t <= 0 or h <= 0 or w <= 0 or h % merge or w % merge:
            raise ValueError(f"grid {t}x{h}x{w}: sides must be positive multiples of the merge size {merge}")
    frames = [_plan_frame(h, w, vision) for t, h, w in grids for _ in range(t)]
    lengths = np.array([h * w for t, h, w in grids for _ in range(t)], np.int32)
    gather, scatter = _plan_segments(lengths)
    return VisionPlan(
        rotary_cos=np.concatenate([frame.cos for frame in frames]),
        rotary_sin=np.concatenate([frame.sin for frame in frames]),
        position_index=np.concatenate([frame.position_index for frame in frames], axis=1),
        position_weight=np.concatenate([frame.position_weight for frame in frames], axis=1),
        gather_index=gather,
        segment_length=lengths,
        scatter_index=scatter,
    )


class _Frame(NamedTuple):
    cos: npt.NDArray[np.float32]  # [h * w, head_dim]
    sin: npt.NDArray[np.float32]
    position_index: npt.NDArray[np.int32]  # [4, h * w]
    position_weight: npt.NDArray[np.float32]


@lru_cache(maxsize=8)  # a large frame takes tens of MB
def _plan_frame(height: int, width: int, vision: VisionFacts) -> _Frame:
    """cos, sin [h*w, head_dim], position index and weight [4, h*w] of one frame; equal frames share the
    arrays.
    """
    row, column = _merge_order(height, width, vision.spatial_merge_size)
    index, weight = _interpolate(row, column, height, width, round(vision.num_position_embeddings**0.5))
    spatial = vision.hidden_size // vision.num_heads // 2
    exponent = np.arange(0, spatial, 2, dtype=np.float32) / np.float32(spatial)
    frequency = (1.0 / np.float32(vision.rope_theta) ** exponent).astype(np.float32)
    angle = np.concatenate([row[:, None] * frequency, column[:, None] * frequency], axis=1, dtype=np.float32)
    angle = np.concatenate([angle, angle], axis=1)
    return _Frame(np.cos(angle), np.sin(angle), index, weight)


def _merge_order(height: int, width: int, merge: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Row and column of each patch, in merge-block order."""
    rows, columns = np.meshgrid(
        np.arange(height, dtype=np.int32), np.arange(width, dtype=np.int32), indexing="ij"
    )
    blocks = (height // merge, merge, width // merge, merge)
    row, column = (grid.reshape(blocks).transpose(0, 2, 1, 3).reshape(-1) for grid in (rows, columns))
    return row, column


def _interpolate(
    row: npt.NDArray[np.int32], column: npt.NDArray[np.int32], height: int, width: int, side: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Bilinear, corners aligned: the 4 neighbours of each patch in the `side x side` position table."""
    (row_taps, row_weights), (column_taps, column_weights) = (
        _taps(row, height, side),
        _taps(column, width, side),
    )
    index = row_taps[:, None] * side + column_taps[None, :]
    weight = row_weights[:, None] * column_weights[None, :]
    return index.reshape(4, -1).astype(np.int32), weight.reshape(4, -1)


def _taps(
    place: npt.NDArray[np.int32], size: int, side: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    # float32 step by step, as transformers computes it, so that no bit differs.
    source = place.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
    low = np.floor(source)
    offsets = np.array([[0], [1]], np.float32)
    taps = np.minimum((low + offsets).astype(np.int64), side - 1)
    return taps, 1 - np.abs(source - low - offsets)


def _plan_segments(lengths: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """gather_index [B, L] and scatter_index [N]."""
    longest = int(lengths.max())
    real = np.arange(longest) < lengths[:, None]  # [B, L]
    gather = np.zeros(real.shape, np.int32)
    gather[real] = np.arange(int(lengths.sum()), dtype=np.int32)
    return gather, np.flatnonzero(real).astype(np.int32)
