"""Which frames of a video are looked at, how large, and at which seconds: transformers'
Qwen3VLVideoProcessor in numpy.

It knows numbers of frames, not files. The resize equals torchvision's on a CPU bit for bit (see resample.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import InvalidVideo
from ensemble.options import Options
from ensemble.preprocessing.image_processor import check_aspect_ratio
from ensemble.preprocessing.patches import PatchLayout
from ensemble.preprocessing.resample import resize_bicubic

_BICUBIC = 3


@dataclass(frozen=True)
class VideoProcessor:
    """The settings of video_preprocessor_config.json. Videos are always sampled (do_sample_frames).

    Attributes:
        fps: frames taken per second of video, between min_frames and max_frames in all.
        min_pixels, max_pixels: bounds of frames * height * width of a whole resized video.
        cap_pixels_per_frame: also bound each frame, to max_video_tokens merged visual tokens.
    """

    layout: PatchLayout
    min_pixels: int
    max_pixels: int
    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    cap_pixels_per_frame: bool = False
    max_video_tokens: int = 768

    @classmethod
    def from_file(cls, path: Path) -> VideoProcessor:
        """Read video_preprocessor_config.json; ValueError for settings that this class cannot honour."""
        config = json.loads(path.read_text(encoding="utf-8"))
        if not config.get("do_resize", True) or config.get("resample", _BICUBIC) != _BICUBIC:
            raise ValueError(
                f"{path}: only do_resize with bicubic resampling (resample {_BICUBIC}) is supported"
            )
        if config.get("num_frames") is not None:
            raise ValueError(f"{path}: only sampling by fps is supported, not by num_frames")
        names = ("fps", "min_frames", "max_frames", "cap_pixels_per_frame", "max_video_tokens")
        chosen = {name: config[name] for name in names if config.get(name) is not None}
        layout = PatchLayout(config["patch_size"], config["temporal_patch_size"], config["merge_size"])
        return cls(layout, config["size"]["shortest_edge"], config["size"]["longest_edge"], **chosen)

    def with_options(self, options: Options) -> VideoProcessor:
        """The same with a request's own fps."""
        return self if options.fps is None else replace(self, fps=options.fps)

    def sample(self, total_frames: int, video_fps: float) -> NDArray[np.int64]:
        """Indices of the frames to look at, evenly spread from the first to the last."""
        wanted = int(total_frames / video_fps * self.fps)
        wanted = min(max(wanted, self.min_frames), self.max_frames, total_frames)
        return np.linspace(0, total_frames - 1, wanted).round().astype(np.int64)

    def timestamps(self, indices: Sequence[int], video_fps: float) -> tuple[float, ...]:
        """Seconds of each temporal group: the middle between its first and last frame."""
        time = self.layout.temporal_patch_size
        padded = [*indices, *[indices[-1]] * (-len(indices) % time)]
        seconds = [index / video_fps for index in padded]
        return tuple((seconds[at] + seconds[at + time - 1]) / 2 for at in range(0, len(seconds), time))

    def resized(self, frames: int, height: int, width: int, field: str) -> tuple[int, int]:
        """Height and width of `frames` frames after the resize (`smart_resize` with a temporal factor)."""
        time, factor = self.layout.temporal_patch_size, self.layout.factor
        if frames < time:
            raise InvalidVideo(field, f"{frames} frames", f"at least {time} frames", "Send it as an image.")
        if height < factor or width < factor:
            grow = max(factor / height, factor / width)
            height, width = int(height * grow), int(width * grow)
        check_aspect_ratio(height, width, field, InvalidVideo)
        new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
        volume = round(frames / time) * time * new_height * new_width
        max_pixels = self._max_pixels(frames)
        if volume > max_pixels:
            shrink = math.sqrt((frames * height * width) / max_pixels)
            new_height = max(factor, math.floor(height / shrink / factor) * factor)
            new_width = max(factor, math.floor(width / shrink / factor) * factor)
        elif volume < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (frames * height * width))
            new_height = math.ceil(height * grow / factor) * factor
            new_width = math.ceil(width * grow / factor) * factor
        return new_height, new_width

    def resize(self, frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        """A frame of rows of RGB pixels [H,W,3] as planes [3,height,width]."""
        return resize_bicubic(frame.transpose(2, 0, 1), height, width)

    def _max_pixels(self, frames: int) -> int:
        if not self.cap_pixels_per_frame:
            return self.max_pixels
        cap = self.max_video_tokens * self.layout.factor**2
        return max(min(cap, self.max_pixels // frames), int(self.min_pixels * 1.05)) * frames
