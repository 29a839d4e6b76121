"""Frames to patches: the order of values that the vision tower expects. It knows neither files nor sizes to
resize to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PatchLayout:
    """Sizes in pixels (patch_size), frames (temporal_patch_size) and patches (merge_size)."""

    patch_size: int
    temporal_patch_size: int
    merge_size: int

    @property
    def factor(self) -> int:
        """Pixels along one merged visual token; heights and widths are multiples of it."""
        return self.patch_size * self.merge_size

    @property
    def values(self) -> int:
        """Values of one patch: all frames of a temporal group, three colours."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Patches in time, down and across."""
        return -(-frames // self.temporal_patch_size), height // self.patch_size, width // self.patch_size

    def write_patches(self, frames: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Cut frames [F,C,H,W] (any strides) into patches and write them to `out` [N,K].

        Rows go by temporal group, then by blocks of merge_size x merge_size patches; the values of a row are
        [C, temporal_patch_size, patch_size, patch_size]. A last group that is not full repeats the last
        frame, so an image is one frame repeated.
        """
        count, channels, height, width = frames.shape
        patch, time, merge = self.patch_size, self.temporal_patch_size, self.merge_size
        groups, rows, columns = self.grid(count, height, width)
        if frames.strides[-1] != 1:
            frames = np.ascontiguousarray(frames)
        # The pixels of a patch that lie side by side are moved as one value: three times faster than one by one.
        run = np.dtype((np.void, patch))
        source = frames.view(run)
        target = (
            out.reshape(-1)
            .view(run)
            .reshape(groups, rows // merge, columns // merge, merge, merge, channels, time, patch)
        )
        for group in range(groups):
            for at in range(time):
                index = min(group * time + at, count - 1)
                blocks = source[index].reshape(channels, rows // merge, merge, patch, columns // merge, merge)
                target[group, ..., at, :] = blocks.transpose(1, 4, 2, 5, 0, 3)
