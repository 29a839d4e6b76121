"""Bytes to RGB pictures, with every bound checked from the header before a pixel is decoded.

It knows files and limits, not what the model wants. Transparency is laid over white as transformers does
with a PIL picture (`convert_to_rgb`), and an EXIF orientation is applied as its `load_image` does.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib
from typing import Final

from PIL import ExifTags, Image, ImageOps

from ensemble.config import MediaLimits
from ensemble.errors import InvalidImage, RequestError

# Only these decoders are tried: others are rare in customers' photos and a needless risk (EPS starts a
# program).
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_ALLOWED: Final = "a JPEG, PNG, WebP, GIF or BMP file"
_BASE64: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n")
_MAGIC: Final = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8", b"BM")
# What Pillow's decoders raise on broken files, beside its own errors (all of them OSError).
_BROKEN: Final = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error,
    zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


def open_image(item: bytes, index: int, limits: MediaLimits) -> Image.Image:
    """Read the header of an item of `images`; pixels stay undecoded. InvalidImage says what is wrong
    with it.
    """
    field = f"images[{index}]"
    item = decode_text(item, field, limits.max_image_bytes, _MAGIC, InvalidImage)
    if not item:
        raise InvalidImage(field, "zero bytes", _ALLOWED)
    try:
        image = Image.open(io.BytesIO(item), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidImage(
            field, "far too many pixels", f"at most {limits.max_image_pixels} pixels"
        ) from None
    except _BROKEN:
        advice = "Convert HEIC photos to JPEG." if item[4:8] == b"ftyp" else ""
        raise InvalidImage(field, f"{len(item)} bytes that are no picture", _ALLOWED, advice) from None
    pixels = image.width * image.height
    if pixels > limits.max_image_pixels:
        shown = f"{image.width}x{image.height} = {pixels} pixels"
        raise InvalidImage(
            field, shown, f"at most {limits.max_image_pixels} pixels", "Send a smaller picture."
        )
    if pixels == 0:
        raise InvalidImage(field, f"{image.width}x{image.height} pixels", "at least one pixel")
    return image


def decode_image(image: Image.Image, index: int) -> Image.Image:
    """Decode an opened picture to upright RGB; of an animation, the first frame. InvalidImage if it is
    broken.
    """
    try:
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation != 1:
            image = ImageOps.exif_transpose(image)
        return _to_rgb(image)
    except _BROKEN as error:
        field = f"images[{index}]"
        raise InvalidImage(
            field, f"a broken {image.format or 'picture'} ({error})", "a complete picture"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        # Pillow clips 16-bit grey to 0..255 and transformers with it, which leaves a white picture. The
        # high byte is the picture.
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def decode_text(
    item: bytes, field: str, max_bytes: int, magic: tuple[bytes, ...], error: type[RequestError]
) -> bytes:
    """The bytes of a file from an item that may also be a data URI or base64 text.

    Triton's HTTP generate endpoint carries only text. Anything that begins like a file is taken as it is.
    """
    is_uri = item[:5] == b"data:"
    if is_uri or (not item.startswith(magic) and item and _BASE64.issuperset(item[:64])):
        if len(item) > max_bytes * 4 // 3 + 256:
            raise error(field, f"{len(item)} bytes of base64", f"at most {max_bytes} bytes when decoded")
        text = item.partition(b",")[2] if is_uri else item
        try:
            item = base64.b64decode(text.translate(None, b"\r\n"), validate=True)
        except binascii.Error as fault:
            raise error(
                field, f"text that is not base64 ({fault})", "a file's bytes, a data URI, or base64"
            ) from None
    if len(item) > max_bytes:
        raise error(field, f"{len(item)} bytes", f"at most {max_bytes} bytes", "Send a smaller file.")
    return item
