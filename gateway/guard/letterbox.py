"""Fits a picture of any shape into a square without distorting it, and boxes back again. Knows geometry only."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from gateway.guard.picture import Pixels

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Letterbox:
    """Where a picture lies in its square: `square = picture * scale + (left, top)`, in pixels."""

    side: int
    scale: float
    left: int
    top: int

    @classmethod
    def of(cls, width: int, height: int, side: int) -> Letterbox:
        """For a picture of this size; small ones are enlarged."""
        scale = side / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        return cls(side, scale, (side - inner[0]) // 2, (side - inner[1]) // 2)

    def fit(self, pixels: Pixels) -> Pixels:
        """The square [side,side,3], grey beside the picture."""
        height, width, _ = pixels.shape
        inner = max(1, round(width * self.scale)), max(1, round(height * self.scale))
        method = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
        square = np.full((self.side, self.side, 3), 128, np.uint8)
        square[self.top : self.top + inner[1], self.left : self.left + inner[0]] = cv2.resize(
            pixels, inner, interpolation=method
        )
        return square

    def inside(self, points: Points) -> Points:
        """Points (x, y) of the picture, in the square."""
        return points * self.scale + (self.left, self.top)

    def outside(self, points: Points) -> Points:
        """Points of the square, in the picture."""
        return (points - (self.left, self.top)) / self.scale
