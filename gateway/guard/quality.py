"""How usable a picture is, and what can be done for a dark or noisy one. Knows pixels only.

A good picture is not touched: enhancement that helps a dark photo harms a good screenshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from gateway.guard.picture import Pixels

_SIDE: Final = 1024  # measured at this size, so that a large picture is not "sharper"
_DARK: Final = (
    80.0  # brightness of 255 that the lightest 2 % of a well-lit picture exceed, even one of a black screen
)
_SPREAD: Final = 18.0  # standard deviation below which there is hardly any contrast
_SHARP: Final = 25.0  # variance of the Laplacian of a picture that is just sharp


@dataclass(frozen=True)
class Quality:
    """Measures of a picture. `highlights`: the brightness that its lightest 2 % exceed, of 255. `score`: 0 to 1."""

    highlights: float
    contrast: float
    sharpness: float

    @property
    def score(self) -> float:
        """The weakest of the three, each 1 when it is no hindrance."""
        return float(
            min(
                1.0,
                0.2 + 0.8 * self.highlights / _DARK,
                0.1 + 0.9 * self.contrast / _SPREAD,
                0.1 + 0.9 * self.sharpness / _SHARP,
            )
        )

    @property
    def needs_help(self) -> bool:
        """Whether it is so dark or flat that enhancement is worth its price."""
        return self.highlights < _DARK and self.contrast < 2 * _SPREAD


def measure(pixels: Pixels) -> Quality:
    """The measures of a picture."""
    grey = cv2.cvtColor(_small(pixels), cv2.COLOR_RGB2GRAY)
    return Quality(
        float(np.percentile(grey, 98)), float(grey.std()), float(cv2.Laplacian(grey, cv2.CV_64F).var())
    )


def enhanced(pixels: Pixels) -> Pixels:
    """Less noise, then contrast where it is local: bilateral filter, CLAHE on the lightness."""
    smooth = cv2.bilateralFilter(pixels, 5, 30, 5)
    lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=3.0, tileGridSize=(8, 8)).apply(lab[..., 0])
    made: Pixels = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).astype(np.uint8)
    return made


def _small(pixels: Pixels) -> Pixels:
    height, width, _ = pixels.shape
    scale = _SIDE / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    made: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return made
