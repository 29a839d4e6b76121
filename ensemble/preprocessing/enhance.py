"""Option ``enhance="auto"``: helps dark, flat or noisy photos before the resize, and leaves good ones alone
byte for byte.

It knows pictures only. The decision rests on three measures of the grey picture, scaled down to at most 512
pixels:

- spread: the difference of its 99th and 1st percentile. Below 100 of 255 the photo is flat. Below 16 there
  is nothing to bring out (a plain wall, a lens cap), and stretching would only enlarge noise.
- mean: below 60 with a 99th percentile below 160 the photo is dark. A dark screen in a lit room has bright
  parts and stays.
- noise: standard deviation after J. Immerkaer, "Fast Noise Variance Estimation" (1996), on a full-size
  middle crop, where scaling has not averaged it away. Above 12 the photo is noisy. The estimate counts fine
  texture as noise, hence the second condition: a median filter must halve it.

Steps, each only where its measure says so, in this order: median 3x3, stretch of the spread to 0..255 with
colours kept (autocontrast, 1 % cut off at both ends), gamma that lifts the mean towards 110, never
below 0.5, so that a switched-off screen in a dim room stays black.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

FLAT_SPREAD: Final = 100.0
EMPTY_SPREAD: Final = 16.0
DARK_MEAN: Final = 60.0
DARK_HIGHLIGHT: Final = 160.0
NOISE_SIGMA: Final = 12.0
TARGET_MEAN: Final = 110.0
STRONGEST_GAMMA: Final = 0.5
_MEASURED_SIDE: Final = 512


@dataclass(frozen=True)
class Measures:
    """What is measured of a photo, in grey levels 0..255."""

    mean: float
    spread: float
    highlight: float
    noise: float

    @property
    def flat(self) -> bool:
        """Low contrast, but not empty."""
        return EMPTY_SPREAD <= self.spread < FLAT_SPREAD

    @property
    def dark(self) -> bool:
        """Little light, and no bright part that a brighter picture would burn out."""
        return self.mean < DARK_MEAN and self.highlight < DARK_HIGHLIGHT and self.spread >= EMPTY_SPREAD

    @property
    def noisy(self) -> bool:
        """More grain than texture explains."""
        return self.noise > NOISE_SIGMA


def measure(image: Image.Image) -> Measures:
    """Measure an RGB picture."""
    grey = image.convert("L")
    small = grey.copy()
    small.thumbnail((_MEASURED_SIDE, _MEASURED_SIDE), Image.Resampling.BOX)
    values = np.asarray(small)
    low, high = np.percentile(values, (1, 99))
    crop = _middle(grey)
    noise = _noise(np.asarray(crop, dtype=np.float32))
    if noise > NOISE_SIGMA:
        left = _noise(np.asarray(crop.filter(ImageFilter.MedianFilter(3)), dtype=np.float32))
        noise = noise if left < noise / 2 else 0.0
    return Measures(float(values.mean()), float(high - low), float(high), noise)


def enhance(image: Image.Image) -> Image.Image:
    """A better RGB picture of the same size, or the same object if it is good."""
    measures = measure(image)
    if measures.noisy:
        image = image.filter(ImageFilter.MedianFilter(3))
    if measures.flat:
        image = ImageOps.autocontrast(image, cutoff=1, preserve_tone=True)
    if measures.dark:
        mean = measure(image).mean if measures.flat else measures.mean
        gamma = max(STRONGEST_GAMMA, math.log(TARGET_MEAN / 255) / math.log(max(mean, 1.0) / 255))
        if gamma < 1:
            image = image.point([round(255 * (level / 255) ** gamma) for level in range(256)] * 3)
    return image


def _middle(grey: Image.Image) -> Image.Image:
    width, height = min(grey.width, _MEASURED_SIDE), min(grey.height, _MEASURED_SIDE)
    left, top = (grey.width - width) // 2, (grey.height - height) // 2
    return grey.crop((left, top, left + width, top + height))


def _noise(grey: NDArray[np.float32]) -> float:
    if min(grey.shape) < 3:
        return 0.0
    rows = grey[:-2] - 2 * grey[1:-1] + grey[2:]
    mask = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    return float(math.sqrt(math.pi / 2) / 6 * np.abs(mask).mean())
