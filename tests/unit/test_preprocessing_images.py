"""Pictures: common formats work, all else is refused, and what is too big before a pixel is decoded."""

from __future__ import annotations

import base64
import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ensemble.config import MediaLimits
from ensemble.errors import InvalidImage, InvalidOption
from ensemble.options import Options
from ensemble.preprocessing.image_processor import ImageProcessor
from ensemble.preprocessing.images import decode_image, open_image
from ensemble.preprocessing.patches import PatchLayout

LIMITS = MediaLimits()
PIXELS = np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def decode(data: bytes, limits: MediaLimits = LIMITS) -> np.ndarray:
    return np.asarray(decode_image(open_image(data, 0, limits), 0))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_give_their_pixels(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(decode(encode(Image.fromarray(PIXELS), form, **options)), PIXELS)


def test_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (9, 7), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data) == (255, 0, 0)).all()


def test_cmyk_jpeg_becomes_rgb() -> None:
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    red, green, blue = decode(data)[8, 8]
    assert red > 200
    assert green < 60
    assert blue < 60


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    values = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    shades = decode(encode(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(
        shades, np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    )


def test_transparency_is_laid_over_white() -> None:
    data = encode(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG")
    assert (decode(data) == 255).all()
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([10, 20, 30] * 8)
    assert (decode(encode(palette, "PNG", transparency=3)) == 255).all()
    assert (decode(encode(palette, "PNG")) == (10, 20, 30)).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_turns_the_picture_upright(form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = decode(encode(Image.fromarray(PIXELS), form, exif=exif))
    lying = decode(encode(Image.fromarray(PIXELS), form))
    np.testing.assert_array_equal(upright, np.rot90(lying, k=-1))


@pytest.mark.parametrize(
    "wrap", [base64.b64encode, base64.encodebytes, lambda b: b"data:image/png;base64," + base64.b64encode(b)]
)
def test_base64_text_and_data_uris_are_taken_as_files(wrap: Any) -> None:
    data = encode(Image.fromarray(PIXELS), "PNG")
    np.testing.assert_array_equal(decode(wrap(data)), PIXELS)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "zero bytes"),
        (b"data:image/png;base64,", "zero bytes"),
        (b"hello", "base64|no picture"),
        (b"data:image/png;base64,!!!!", "not base64"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),
        (b"\x00" * 100, "no picture"),
        (b"\x00\x00\x00\x20ftypheic" + b"\x00" * 40, "Convert HEIC"),
        (encode(Image.fromarray(PIXELS), "JPEG")[:-200], "broken JPEG"),
        (encode(Image.fromarray(PIXELS), "PNG")[:-200], "broken PNG"),
        (png_header(40, 30), "broken PNG"),
    ],
)
def test_what_is_no_whole_picture_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(InvalidImage, match=said) as caught:
        decode(data)
    assert caught.value.field == "images[0]"


@pytest.mark.parametrize(("width", "height"), [(30000, 30000), (9000, 9000), (100_000, 1000)])
def test_a_header_that_claims_too_many_pixels_is_refused_at_once(width: int, height: int) -> None:
    began = time.perf_counter()
    with pytest.raises(InvalidImage, match="at most 64000000 pixels"):
        open_image(png_header(width, height), 0, LIMITS)
    assert time.perf_counter() - began < 1.0  # decoding would take many seconds


def test_too_many_bytes_are_refused_raw_and_as_base64() -> None:
    data = encode(Image.fromarray(PIXELS), "PNG")
    limits = MediaLimits(max_image_bytes=len(data) - 1)
    for item in (data, base64.b64encode(data), base64.b64encode(data * 9)):
        with pytest.raises(InvalidImage, match="bytes"):
            open_image(item, 3, limits)


def test_sides_of_a_ratio_above_200_are_refused() -> None:
    processor = ImageProcessor(PatchLayout(16, 2, 2), 4096, 1 << 20)
    assert processor.resized(1, 200, "images[0]") == (32, 928)
    with pytest.raises(InvalidImage, match="ratio up to 200"):
        processor.resized(1, 201, "images[0]")


def test_bounds_of_a_request_replace_those_of_the_checkpoint() -> None:
    processor = ImageProcessor(PatchLayout(16, 2, 2), 64 * 64, 512 * 512)
    assert processor.with_options(Options(max_pixels=128 * 128)).resized(1000, 1000, "x") == (128, 128)
    assert processor.with_options(Options(min_pixels=256 * 256)).resized(10, 10, "x") == (256, 256)
    with pytest.raises(InvalidOption, match="min_pixels"):
        processor.with_options(Options(min_pixels=1 << 20))
    with pytest.raises(InvalidOption, match="max_pixels"):
        processor.with_options(Options(max_pixels=32 * 32))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged EXIF data and goes on without it
def test_broken_files_of_every_format_raise_nothing_but_invalid_image() -> None:
    random = np.random.default_rng(5)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(PIXELS)
    files = [encode(picture, form, exif=exif) for form in ("JPEG", "PNG", "WEBP")]
    files += [encode(picture, form) for form in ("GIF", "BMP")] + [encode(picture, "JPEG", progressive=True)]
    refused = 0
    for _ in range(600):
        data = bytearray(files[random.integers(len(files))])
        for _ in range(random.integers(1, 9)):
            data[random.integers(min(len(data), 300))] = random.integers(256)
        try:
            decode(bytes(data))
        except InvalidImage:
            refused += 1
    assert refused > 100
