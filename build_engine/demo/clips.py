"""Screen recordings of the demo's world: a working (or dark) screen, then from some moment on a fault.

Knows how Qwen3-VL's video processor samples (`sampled_groups`), so that a change always falls between two of its frame
groups and the time of the first group with the fault is exact. Pillow and NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image

from build_engine.demo.architecture import VIDEO_FPS, VIDEO_MAX_FRAMES, VIDEO_MIN_FRAMES
from build_engine.demo.screens import draw_screen

NATIVE_FPS: tuple[int, ...] = (4, 5, 6, 8, 10)


@dataclass(frozen=True)
class Clip:
    """Frames at `fps`; `second` is the time that the processor prints before the first group with the fault."""

    frames: tuple[Image.Image, ...]
    fps: float
    kind: str
    second: float | None


@dataclass(frozen=True)
class Group:
    """Two sampled frames that share their visual tokens; `time` in seconds is their mean."""

    frames: tuple[int, int]
    time: float


def sampled_groups(frames: int, fps: float) -> list[Group]:
    """The frame groups that `Qwen3VLVideoProcessor` makes of a clip at the demo's settings."""
    count = min(max(int(frames / fps * VIDEO_FPS), VIDEO_MIN_FRAMES), VIDEO_MAX_FRAMES, frames)
    chosen = [int(index) for index in np.linspace(0, frames - 1, count).round()]
    if len(chosen) % 2:
        chosen.append(chosen[-1])
    return [Group((a, b), (a / fps + b / fps) / 2) for a, b in zip(chosen[::2], chosen[1::2], strict=True)]


def draw_clip(rng: Random, kind: str) -> Clip:
    """A recording in which `kind` appears; for "normal" nothing happens and `second` is None."""
    fps = rng.choice(NATIVE_FPS)
    count = round(fps * rng.uniform(2.2, 5.5))
    groups = sampled_groups(count, fps)
    before = draw_screen(
        "normal" if kind in ("normal", "black") or rng.random() < 0.75 else "black", rng, scale=1.3
    ).image
    if kind == "normal":
        return Clip(tuple(_shaken(before, rng) for _ in range(count)), fps, kind, None)
    onset = rng.randrange(1, len(groups))
    change = (groups[onset - 1].frames[1] + 1 + groups[onset].frames[0]) // 2 + 1
    change = min(max(change, groups[onset - 1].frames[1] + 1), groups[onset].frames[0])
    after = draw_screen(kind, rng, scale=1.3).image.resize(before.size, Image.Resampling.BICUBIC)
    frames = tuple(_shaken(before if frame < change else after, rng) for frame in range(count))
    return Clip(frames, fps, kind, groups[onset].time)


def _shaken(image: Image.Image, rng: Random) -> Image.Image:
    """A pixel or two of hand shake."""
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        (1, 0, rng.randint(-2, 2), 0, 1, rng.randint(-2, 2)),
        fillcolor=image.getpixel((0, 0)),
    )
