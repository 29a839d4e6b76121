"""Pictures and clips of load tests: the demo's own, made different enough that no cache of the server can answer.

It knows pixels and files, Pillow, and PyAV for clips only. Everything is drawn from the caller's random generator.
"""

from __future__ import annotations

import io
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
from PIL import Image

_PICTURES: Final = Path(__file__).parents[1] / "build_engine" / "demo" / "pictures"
POOL: Final = 8
"""How many different huge pictures and clips there are: making one takes longer than serving it."""
HUGE: Final = (4000, 3000)
"""Width and height of a huge picture."""


class Media:
    """Encoded files. The pools are made on first use, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def warm(self, huge: bool, videos: bool) -> None:
        """Make the pools that will be needed."""
        if huge:
            _ = self._huge
        if videos:
            _ = self._clips
        _ = self._base

    def picture(self, random: Random) -> bytes:
        """A JPEG of about 360x450 with pixels of its own: one of the demo's, with a drawn square in its corner."""
        image = random.choice(self._base).copy()
        image.paste(_square(random), (0, 0))
        return _jpeg(image)

    def huge(self, random: Random) -> bytes:
        """A JPEG of 4000x3000, one of POOL."""
        return random.choice(self._huge)

    def clip(self, random: Random) -> bytes:
        """An MP4 (H.264) of the demo's world, one of POOL."""
        return random.choice(self._clips)

    @cached_property
    def _base(self) -> list[Image.Image]:
        return [Image.open(path).convert("RGB") for path in sorted(_PICTURES.glob("*.jpg"))]

    @cached_property
    def _huge(self) -> list[bytes]:
        random = Random(f"{self._seed} huge")
        pool = []
        for number in range(POOL):
            image = self._base[number % len(self._base)].resize(HUGE, Image.Resampling.BILINEAR)
            image.paste(_square(random), (0, 0))
            pool.append(_jpeg(image))
        return pool

    @cached_property
    def _clips(self) -> list[bytes]:
        from build_engine.demo.clips import draw_clip

        kinds = ("crack", "crash", "battery", "network", "storage", "login", "heat", "update")
        clips = (draw_clip(Random(f"{self._seed} clip {number}"), kinds[number]) for number in range(POOL))
        return [_mp4(clip.frames, round(clip.fps)) for clip in clips]


def _square(random: Random) -> Image.Image:
    """A square of 16x16 pixels out of 16 random colours in blocks large enough to survive JPEG."""
    colours = np.frombuffer(random.randbytes(4 * 4 * 3), np.uint8).reshape(4, 4, 3)
    return Image.fromarray(np.kron(colours, np.ones((4, 4, 1), np.uint8)))


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def _mp4(frames: tuple[Image.Image, ...], fps: int) -> bytes:
    import av

    out = io.BytesIO()
    width, height = (side // 2 * 2 for side in frames[0].size)  # the codec wants even sides
    with av.open(out, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=fps, width=width, height=height, pix_fmt="yuv420p")
        stream.options = {"crf": "18"}
        for frame in frames:
            array = np.ascontiguousarray(np.asarray(frame.convert("RGB"))[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
    return out.getvalue()
