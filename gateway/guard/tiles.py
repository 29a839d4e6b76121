"""A large or long picture, cut so that the OCR sees its text at full size. Knows geometry; the OCR scales what is larger down.

A screenshot of a whole page may be 1080 x 12000: at the OCR's size nobody could read it, but who opens the file could.
A thin strip is laid on a wider ground: the OCR would enlarge it until its short side is normal, at any price.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from gateway.guard.picture import Pixels
from gateway.guard.places import Polygon

_LONG: Final = 2.5  # sides in a larger ratio are cut
_LEAST: Final = 1000  # pixels along the long side of a tile
_SIDE: Final = 2000  # more than this the OCR does not look at


@dataclass(frozen=True)
class Tile:
    """A part of a picture, pixels left .. right-1 and top .. bottom-1; it is shown `scale` times as large."""

    left: int
    top: int
    right: int
    bottom: int
    scale: float

    def cut(self, pixels: Pixels) -> Pixels:
        """What the OCR is shown."""
        part = pixels[self.top : self.bottom, self.left : self.right]
        if self.scale < 1:
            size = max(1, round(part.shape[1] * self.scale)), max(1, round(part.shape[0] * self.scale))
            part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
        height, width, _ = part.shape
        if max(height, width) > _LONG * min(height, width):
            down, right = max(0, width // 2 - height), max(0, height // 2 - width)
            ground = [float(value) for value in np.median(part, axis=(0, 1))]
            wider = cv2.copyMakeBorder(part, 0, down, 0, right, cv2.BORDER_CONSTANT, value=ground)
            part = np.asarray(wider, np.uint8)
        return np.ascontiguousarray(part)

    def back(self, box: Polygon) -> Polygon:
        """Corners that were found in the tile, in the picture."""
        return (box / self.scale + (self.left, self.top)).astype(np.float32)


def tiles(width: int, height: int) -> Iterator[Tile]:
    """Tiles that cover a picture of this size; neighbours share a quarter."""
    short, long = sorted((width, height))
    if long <= _LONG * short:
        yield Tile(0, 0, width, height, min(1.0, _SIDE / long))
        return
    length = max(2 * short, _LEAST)
    scale = min(1.0, _SIDE / length)
    start = 0
    while True:
        stop = min(start + length, long)
        start = max(0, min(start, long - length))  # the last one is as long as the others
        yield Tile(start, 0, stop, short, scale) if width >= height else Tile(0, start, short, stop, scale)
        if stop == long:
            return
        start += length * 3 // 4
