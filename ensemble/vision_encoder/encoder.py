"""The engine side of the vision encoder: packed patches in, rows of the prompt embedding table out.

It knows how to call an engine. It does not know requests, batches or the cache (`batch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from build_engine.manifest import Manifest
from build_engine.vision_plan import plan
from ensemble.config import DeploymentConfig
from ensemble.vision_encoder.rows import Rows


@dataclass(frozen=True)
class CallLimits:
    """What one call of an engine should hold.

    Attributes:
        max_patches: most patches; a single temporal group may have more.
        max_segments: most segments (a segment: an image, or one temporal group of a video); None: any number.
        max_padding: pictures share calls, with at most so many padded places as a share of the patches. None: each
            picture has calls of its own.
    """

    max_patches: int = 4096
    max_segments: int | None = None
    max_padding: float | None = None


UNSHARED: Final = CallLimits()
"""Every picture has calls of its own."""


class VisionEncoder(Protocol):
    """An engine that encodes packed pictures and videos."""

    @property
    def call_limits(self) -> CallLimits:
        """What calls should hold to be quick, and may hold at most."""
        ...

    def encode(self, patches: npt.NDArray[np.uint8], grid_thw: npt.NDArray[np.int32]) -> Rows:
        """Encode the items of `grid_thw`, packed one after the other.

        Args:
            patches: [N, K] in transformers' patch and merge order, N the sum of t*h*w over the items.
            grid_thw: [items, 3], temporal groups, rows and columns of each item, in patches.

        Returns:
            [V, 1+D, H], V = N / merge_size^2: per visual token the merged feature, then DeepStack level
            0..D-1, of the manifest's `table_dtype`. The array is the caller's, and complete: on a GPU, no work on
            it is pending.

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

        self.call_limits = UNSHARED
        self._vision = manifest.vision
        self._request = load_vision_encoder(directory, manifest, threads).create_infer_request()

    def encode(self, patches: npt.NDArray[np.uint8], grid_thw: npt.NDArray[np.int32]) -> Rows:
        """See `VisionEncoder.encode`."""
        inputs = {"pixel_patches": np.ascontiguousarray(patches), **plan(grid_thw, self._vision).inputs()}
        # Shared, not copied: the arrays live until `infer` returns. The output is: its buffer is used again.
        self._request.infer(inputs, share_inputs=True)
        rows: npt.NDArray[np.float32] = np.array(self._request.get_tensor("visual_rows").data)
        return rows


def load_encoder(directory: Path, manifest: Manifest, config: DeploymentConfig) -> VisionEncoder:
    """The encoder of an engine directory, by the target of its manifest.

    Raises:
        RuntimeError: the engine cannot be loaded on this machine.
    """
    if manifest.target == "openvino":
        return OpenVinoEncoder(directory, manifest, config.threads)
    from ensemble.vision_encoder.tensorrt_encoder import TensorRtEncoder

    # Beside rank 0 of the language model: the C++ backend takes the table there.
    devices = config.tensorrt_llm.gpu_device_ids if config.tensorrt_llm else ""
    return TensorRtEncoder(directory, manifest, f"cuda:{int(devices.split(',')[0] or 0)}")
