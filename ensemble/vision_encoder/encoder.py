"""The engine side of the vision encoder: packed patches in, rows of the prompt embedding table out.

It knows how to call an engine. It does not know requests, batches or the cache (`batch`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from build_engine.manifest import Manifest
from build_engine.vision_plan import plan


class VisionEncoder(Protocol):
    """An engine that encodes packed pictures and videos."""

    def encode(
        self, patches: npt.NDArray[np.uint8], grid_thw: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """Encode the items of `grid_thw`, packed one after the other.

        Args:
            patches: [N, K] in transformers' patch and merge order, N the sum of t*h*w over the items.
            grid_thw: [items, 3], temporal groups, rows and columns of each item, in patches.

        Returns:
            [V, 1+D, H], V = N / merge_size^2: per visual token the merged feature, then DeepStack level
            0..D-1. The array is the caller's.

        Raises:
            RuntimeError: the engine failed, out of memory included.
        """
        ...


class OpenVinoEncoder:
    """The encoder of the openvino target. One call at a time.

    Args:
        directory: the engine directory.
        manifest: its manifest.
        threads: threads of the engine, 0 leaves the choice to OpenVINO.
    """

    def __init__(self, directory: Path, manifest: Manifest, threads: int = 0) -> None:
        from build_engine.openvino_ir import load_vision_encoder

        self._vision = manifest.vision
        self._request = load_vision_encoder(directory, manifest, threads).create_infer_request()

    def encode(
        self, patches: npt.NDArray[np.uint8], grid_thw: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """See `VisionEncoder.encode`."""
        inputs = {"pixel_patches": np.ascontiguousarray(patches), **plan(grid_thw, self._vision).inputs()}
        # Shared, not copied: the arrays live until `infer` returns. The output is: its buffer is used again.
        self._request.infer(inputs, share_inputs=True)
        rows: npt.NDArray[np.float32] = np.array(self._request.get_tensor("visual_rows").data)
        return rows
