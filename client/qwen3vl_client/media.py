"""A picture or a video in any form a caller has it -> the bytes of its file.

Knows nothing of pixels: files travel as they are, and the server decodes them. PIL is never imported here.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import urllib.parse
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from qwen3vl_client.errors import InvalidImage, InvalidRequest, InvalidVideo

# Modes that PNG can hold; CMYK, YCbCr, LAB, HSV and F have to become RGB first.
_PNG_MODES = {"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"}


@runtime_checkable
class PilImage(Protocol):
    """What is used of `PIL.Image.Image`."""

    mode: str

    def convert(self, mode: str) -> PilImage:
        """The picture in another mode."""

    def save(self, fp: io.BytesIO, format: str, **params: object) -> None:
        """Writes the picture as a file."""


@runtime_checkable
class Readable(Protocol):
    """An open binary file."""

    def read(self) -> bytes:
        """The rest of the file."""


Media: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | PilImage | Readable"
"""Path, bytes of a file, PIL picture, open binary file, or data URI."""


def image_bytes(image: Media, field: str = "images") -> bytes:
    """The picture's encoded file. OSError if a path cannot be read, InvalidImage if a URI cannot be used."""
    if isinstance(image, PilImage):
        return _png(image)
    return _file_bytes(image, InvalidImage, field)


def video_bytes(video: Media, field: str = "videos") -> bytes:
    """The video's encoded file. OSError if a path cannot be read, InvalidVideo if a URI cannot be used."""
    return _file_bytes(video, InvalidVideo, field)


def _file_bytes(media: Media, kind: type[InvalidRequest], field: str) -> bytes:
    if isinstance(media, bytes | bytearray | memoryview):
        return bytes(media)
    if isinstance(media, str) and media.startswith("data:"):
        return _data_uri_bytes(media, kind, field)
    if isinstance(media, str) and media.startswith(("http://", "https://")):
        raise kind(
            f"field '{field}': got {media[:120]}; allowed: a path, bytes, or a data URI. "
            "Neither the client nor the server fetches from the network: download it first."
        )
    if isinstance(media, str | os.PathLike):
        return Path(media).read_bytes()
    if isinstance(media, Readable):
        return media.read()
    raise TypeError(f"{field}: got {type(media).__name__}; allowed: path, bytes, PIL picture, file, data URI")


def _data_uri_bytes(uri: str, kind: type[InvalidRequest], field: str) -> bytes:
    header, comma, body = uri.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        if header.endswith(";base64"):
            return base64.b64decode("".join(urllib.parse.unquote(body).split()), validate=True)
        return urllib.parse.unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        raise kind(f"field '{field}': got {uri[:60]} ({error}); allowed: data:TYPE;base64,DATA") from error


def _png(image: PilImage) -> bytes:
    """Lossless, so that the server sees the caller's very pixels; no EXIF, whose rotation would be stale."""
    if image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, exif=b"")
    return file.getvalue()
