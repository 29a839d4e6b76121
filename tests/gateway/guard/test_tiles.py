"""Long and thin pictures: every pixel is shown to the OCR at a size that can be read, and places come back where they were."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

import build_engine.demo
from ensemble.errors import InvalidImage
from ensemble.ocr.reader import MAX_RATIO, Reader
from gateway.guard import Guard
from gateway.guard.tiles import tiles
from gateway.records import Received
from gateway.settings import Media
from loadtests.benchmarks.masking import Local

FONT = Path(build_engine.demo.__file__).parent / "fonts" / "WenQuanYiMicroHei-subset.ttf"


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_tiles_cover_a_picture_and_none_is_thin(width: int, height: int) -> None:
    seen, end = np.zeros(max(width, height), bool), 0
    for tile in tiles(width, height):
        assert 0 <= tile.left < tile.right <= width
        assert 0 <= tile.top < tile.bottom <= height
        wide, high = tile.right - tile.left, tile.bottom - tile.top
        assert max(wide, high) * tile.scale < 2000.5
        start, stop = (tile.left, tile.right) if width >= height else (tile.top, tile.bottom)
        assert start <= end
        end = stop
        seen[start:stop] = True
    assert seen.all()


@pytest.mark.parametrize(
    ("width", "height"), [(3, 1000), (40, 1100), (1100, 40), (900, 12_000), (5000, 4000)]
)
def test_what_the_ocr_is_shown_is_never_a_strip_and_comes_back_in_place(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    for tile in tiles(width, height):
        shown = tile.cut(pixels)
        assert max(shown.shape[:2]) <= 2000
        assert max(shown.shape[:2]) <= 2.6 * min(shown.shape[:2])
        corner = np.array([[0, 0]], np.float32)
        np.testing.assert_allclose(tile.back(corner), [[tile.left, tile.top]])
        if tile.scale == 1:
            y, x = (tile.bottom - tile.top) // 2, (tile.right - tile.left) // 2
            np.testing.assert_array_equal(shown[y, x], pixels[tile.top + y, tile.left + x])


def test_a_strip_is_refused_by_the_reader_itself() -> None:
    with pytest.raises(InvalidImage, match="ratio"):
        Reader(1).read(np.zeros((MAX_RATIO * 10 + 1, 10, 3), np.uint8))


def test_a_number_deep_in_a_long_screenshot_is_hidden() -> None:
    """At the OCR's size of 2000 pixels its digits would be 7 pixels high."""
    image = Image.new("RGB", (1080, 5600), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.truetype(str(FONT), 26)
    places = [(60, 1590), (60, 2150), (60, 5560)]  # the first two where tiles meet
    orders = [
        (60, 1190),
        (60, 1900),
        (60, 5160),
    ]  # short numbers; the second is seen by two tiles and is still short
    for place, text in [
        *((place, "13812345678") for place in places),
        *((order, "40719826") for order in orders),
    ]:
        draw.text(place, text, font=font, fill="black")
    file = io.BytesIO()
    image.save(file, "PNG")
    media = asyncio.run(Guard(Media(), Local()).media(Received(file.getvalue()), "image"))  # type: ignore[arg-type]
    after = np.asarray(Image.open(io.BytesIO(media.data)).convert("L"), np.float32)
    before = np.asarray(image.convert("L"), np.float32)
    for x, y in places:
        part = np.s_[y : y + 30, x : x + 150]
        assert after[part].std() < 0.35 * before[part].std()
    for x, y in orders:
        kept = np.s_[y : y + 30, x : x + 150]
        np.testing.assert_array_equal(after[kept], before[kept])
