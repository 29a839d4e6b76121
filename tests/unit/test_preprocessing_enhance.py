"""Option enhance: helps where a measure says so, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ensemble.preprocessing.enhance import enhance, measure

RANDOM = np.random.default_rng(0)


def photo(low: float = 0, high: float = 255, noise: float = 0, side: int = 200) -> Image.Image:
    """Soft shapes between two grey levels, with grain."""
    coarse = RANDOM.integers(0, 2, (6, 6, 3)).astype(np.uint8) * 255
    soft = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR)).astype(float)
    values = low + soft / 255 * (high - low) + RANDOM.normal(0, noise, soft.shape)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def black_phone() -> Image.Image:
    """A switched-off screen on a bright table: mostly dark, and right as it is."""
    pixels = np.full((200, 200, 3), 190, dtype=np.uint8)
    pixels[10:190, 20:180] = 8
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "good", [photo(), photo(30, 220, noise=3), black_phone(), Image.new("RGB", (50, 50), (9, 9, 9))]
)
def test_good_pictures_stay_the_same_object(good: Image.Image) -> None:
    before = good.tobytes()
    assert enhance(good) is good
    assert good.tobytes() == before


def test_flat_pictures_gain_contrast() -> None:
    flat = photo(110, 160)
    assert measure(flat).flat
    assert measure(enhance(flat)).spread > 200


def test_dark_pictures_gain_light() -> None:
    dark = photo(0, 120).point(lambda value: value // 2)
    assert measure(dark).dark
    assert measure(enhance(dark)).mean > 2 * measure(dark).mean


def test_noisy_pictures_lose_grain() -> None:
    noisy = photo(40, 210, noise=30)
    assert measure(noisy).noisy
    assert measure(enhance(noisy)).noise < measure(noisy).noise / 2


@pytest.mark.parametrize("size", [(1, 1), (2, 50), (3, 3)])
def test_tiny_pictures_pass(size: tuple[int, int]) -> None:
    assert enhance(Image.new("RGB", size, (90, 90, 90))).size == size
