"""Pictures drawn once and kept on disk, resized to what the model sees, so that training trains instead of drawing.

A cache file holds pictures of one seed; reading needs no torch. Digits keep their centres in pixels of the resized picture.
"""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from build_engine.demo.architecture import CELL, IMAGE_PIXELS
from build_engine.demo.dialogue import KINDS
from build_engine.demo.screens import draw_screen

PICTURES_PER_FILE = 1000
Shape = tuple[int, int]


@dataclass(frozen=True)
class Digit:
    """A digit, its place in the number (0 is the leftmost) and its centre in pixels."""

    value: int
    place: int
    x: float
    y: float


@dataclass(frozen=True)
class Picture:
    """uint8 [height, width, 3], sides multiples of 32; `percent` is the battery level."""

    pixels: NDArray[np.uint8]
    kind: str
    digits: tuple[Digit, ...]
    code: str | None
    percent: int | None

    def cropped(self, left: int, top: int, width: int, height: int) -> Picture:
        """A part, in pixels."""
        digits = tuple(
            Digit(digit.value, digit.place, digit.x - left, digit.y - top) for digit in self.digits
        )
        pixels = self.pixels[top : top + height, left : left + width]
        return Picture(pixels, self.kind, digits, self.code, self.percent)


def draw_picture(rng: Random) -> Picture:
    """One picture as the processor would resize it; half of them show a number, because numbers are hard to read."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    draw = rng.random()
    kind = "crash" if draw < 0.3 else "battery" if draw < 0.5 else rng.choice(KINDS)
    screen = draw_screen(kind, rng)
    low, high = IMAGE_PIXELS
    height, width = smart_resize(
        screen.image.height, screen.image.width, factor=CELL, min_pixels=low, max_pixels=high
    )
    pixels = np.asarray(screen.image.resize((width, height), Image.Resampling.BICUBIC))
    digits = tuple(Digit(mark.digit, mark.place, mark.x * width, mark.y * height) for mark in screen.marks)
    return Picture(pixels, kind, digits, screen.code, screen.percent)


def _write(path: Path, seed: int) -> Path:
    rng = Random(seed)
    pictures = [draw_picture(rng) for _ in range(PICTURES_PER_FILE)]
    scratch = path.with_suffix(".part")
    scratch.write_bytes(pickle.dumps(pictures))
    os.replace(scratch, path)
    return path


def fill(folder: Path, count: int, workers: int = 2) -> list[Path]:
    """Draw what is missing of `count` pictures; returns the files. A stopped run goes on where it was."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{seed:04}.pickle" for seed in range(-(-count // PICTURES_PER_FILE))]
    missing = [file for file in files if not file.exists()]
    with ProcessPoolExecutor(workers) as pool:
        drawn = pool.map(_write, missing, [int(file.stem) + 1 for file in missing])
        list(tqdm(drawn, total=len(missing), desc=f"drawing {count} pictures", unit="k", disable=not missing))
    return files


class PictureCache:
    """Pictures by shape and kind. One batch takes one shape, so that the encoder runs one dense attention."""

    def __init__(self, files: list[Path]) -> None:
        self.by_shape: dict[Shape, dict[str, list[Picture]]] = {}
        for file in files:
            for picture in pickle.loads(file.read_bytes()):
                shape = picture.pixels.shape[:2]
                self.by_shape.setdefault(shape, {}).setdefault(picture.kind, []).append(picture)
        sizes = {shape: sum(map(len, kinds.values())) for shape, kinds in self.by_shape.items()}
        most = max(sizes.values())
        # Rare shapes would repeat a few pictures for whole batches.
        self._shapes = [shape for shape, size in sizes.items() if size * 100 > most]
        self._weights = [sizes[shape] for shape in self._shapes]

    def shape(self, rng: Random) -> Shape:
        """A shape, as often as pictures have it."""
        return rng.choices(self._shapes, self._weights)[0]

    def picture(self, rng: Random, shape: Shape, kind: str | None = None) -> Picture:
        """A picture of a shape; without a kind, crashes and batteries come more often than others."""
        kinds = self.by_shape[shape]
        if kind not in kinds:
            weights = [{"crash": 3.5, "battery": 2.5}.get(name, 1.0) for name in kinds]
            kind = rng.choices(list(kinds), weights)[0]
        return rng.choice(kinds[kind])
