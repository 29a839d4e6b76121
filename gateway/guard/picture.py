"""A picture: opened within limits, and written again. Knows forms and pixels; does not know what is private."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from gateway.errors import InvalidInput, TooLarge
from gateway.guard.kind import Form
from gateway.guard.metadata import stripped_jpeg, stripped_png

Pixels = npt.NDArray[np.uint8]

_EXIF_ORIENTATION: Final = 0x0112
_JPEG_QUALITY: Final = 95
_MAX_ASPECT: Final = 50  # a screenshot of a very long page; the OCR reads it in that many pieces at most


@dataclass(frozen=True, eq=False)
class Picture:
    """An opened picture. `pixels`: uint8 [H,W,3] RGB, upright. `data`: a file with just these pixels and no metadata."""

    data: bytes
    form: Form
    pixels: Pixels

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the pixels and their arrangement."""
        height, width, _ = self.pixels.shape
        return hashlib.sha256(f"{height}x{width}:".encode() + self.pixels.tobytes()).hexdigest()

    @property
    def mime(self) -> str:
        """Of `data`."""
        return f"image/{self.form}"

    def with_pixels(self, pixels: Pixels) -> Picture:
        """The same picture with other pixels: a JPEG stays one, anything else becomes a PNG."""
        return write(pixels, "jpeg" if self.form == "jpeg" else "png")


def open_picture(data: bytes, form: Form, field: str, max_pixels: int) -> Picture:
    """Open a file; the size is read from its header before any pixel is decoded.

    Raises TooLarge, or InvalidInput for a broken file. Of an animation the first frame is taken.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=[form.upper()])
            width, height = image.size
            if width * height > max_pixels:
                raise TooLarge(
                    field,
                    f"{width} x {height} pixels",
                    f"at most {max_pixels} pixels; send a smaller picture",
                )
            if max(width, height) > _MAX_ASPECT * min(width, height):
                raise InvalidInput(
                    field, f"{width} x {height} pixels", f"sides in a ratio of at most {_MAX_ASPECT}"
                )
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1)
            image.load()
            upright = ImageOps.exif_transpose(image) if turned else image
            pixels = np.asarray(_on_white(upright))
    except Image.DecompressionBombError as error:
        raise TooLarge(field, "far too many pixels", f"at most {max_pixels} pixels") from error
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
    ) as error:
        raise InvalidInput(
            field, f"a broken {form.upper()} file", "a whole picture; save it again and send that"
        ) from error
    # What a transparent colour covers is in the file, but was not looked at.
    if not turned and upright.mode in ("RGB", "L") and "transparency" not in upright.info:
        try:
            if form == "jpeg":
                return Picture(stripped_jpeg(data), form, pixels)
            if form == "png":
                return Picture(stripped_png(data), form, pixels)
        except ValueError:
            pass  # decoders forgive more than we do: written again below
    return write(pixels, "jpeg" if form == "jpeg" else "png")


def write(pixels: Pixels, form: Form) -> Picture:
    """A new file. The pixels of a JPEG are those that it decodes to."""
    file = io.BytesIO()
    if form == "jpeg":
        Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
        pixels = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    else:
        Image.fromarray(pixels).save(file, "PNG", compress_level=3)
    return Picture(file.getvalue(), form, pixels)


def _on_white(image: Image.Image) -> Image.Image:
    """RGB; what is transparent is white, as a page would show it."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
