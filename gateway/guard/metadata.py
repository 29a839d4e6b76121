"""Takes metadata out of JPEG and PNG files without touching a pixel: place, time, camera, comments, thumbnails, further pictures.

It knows the segments of the two forms. What is kept is what changes how pixels look; whatever is unknown is dropped.
"""

from __future__ import annotations

import re
import struct
from typing import Final

_SCAN: Final = 0xDA
_END: Final = 0xD9
_DRAWING: Final = {*range(0xC0, 0xD0), *range(_SCAN, 0xDE)}  # frames, tables, scans, restart interval
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in a scan, anything else after 0xff is data
_PNG_KEPT: Final = {
    b"IHDR", b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"pHYs", b"IDAT", b"IEND",
}  # fmt: skip


def stripped_jpeg(data: bytes) -> bytes:
    """The first picture of the file, all its metadata gone; ValueError for a broken one.

    Telephones append a second picture (depth, brightness, the moment before), with metadata and contents of its own.
    """
    kept, at = [data[:2]], 2
    while at + 2 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _END:
            return b"".join((*kept, data[at : at + 2]))
        if at + 4 > len(data):
            break
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        end = at + 2 + length
        if length < 2 or end > len(data):
            raise ValueError("a JPEG segment is longer than the file")
        kept.append(_segment(marker, data[at:end]))
        if marker == _SCAN:
            stop = _MARKER.search(data, end)
            if stop is None:
                raise ValueError("a JPEG scan without an end")
            kept.append(data[end : stop.start()])
            end = stop.start()
        at = end
    raise ValueError("not a sequence of JPEG segments")


def _segment(marker: int, segment: bytes) -> bytes:
    """What of a segment stays, b"" for nothing."""
    content = segment[4:]
    if marker in _DRAWING:
        return segment
    if marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14:
        return segment if len(content) == 14 else b"\xff\xe0\x00\x10" + content[:12] + b"\0\0"  # no thumbnail
    kept = (marker == 0xE2 and content.startswith(b"ICC_PROFILE\0")) or (
        marker == 0xEE and content.startswith(b"Adobe")
    )
    return segment if kept else b""


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
