"""Takes metadata out of JPEG and PNG files without touching a pixel: place, time, camera, comments, thumbnails.

It knows the segments of the two forms. What is kept is what changes how pixels look.
"""

from __future__ import annotations

import struct
from typing import Final

_JPEG_KEPT: Final = {0xE0, 0xE2, 0xEE}  # JFIF, ICC profile, Adobe's colour transform
_PNG_KEPT: Final = {
    b"IHDR", b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"pHYs", b"IDAT", b"IEND",
}  # fmt: skip


def stripped_jpeg(data: bytes) -> bytes:
    """The file without its application segments and comments, ended at its end marker; ValueError for a broken one."""
    kept, at = [data[:2]], 2
    while True:
        if at + 4 > len(data) or data[at] != 0xFF:
            raise ValueError("not a sequence of JPEG segments")
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        end = at + 2 + length
        if length < 2 or end > len(data):
            raise ValueError("a JPEG segment is longer than the file")
        if marker == 0xDA:  # the picture itself; whatever follows its end is not the picture's
            stop = data.rfind(b"\xff\xd9")
            kept.append(data[at : stop + 2] if stop > end else data[at:])
            return b"".join(kept)
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker in _JPEG_KEPT:
            kept.append(data[at:end])
        at = end


def stripped_png(data: bytes) -> bytes:
    """The file without texts, times and EXIF, and without frames of an animation; ValueError for a broken one."""
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        name, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            raise ValueError("a PNG chunk is longer than the file")
        if name in _PNG_KEPT:
            kept.append(data[at:end])
        if name == b"IEND":
            return b"".join(kept)
        at = end
    raise ValueError("a PNG file without an end")
