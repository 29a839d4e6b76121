"""What a file is, by its first bytes: never by its name, nor by what its sender called it."""

from __future__ import annotations

from typing import Final, Literal

Form = Literal["jpeg", "png", "webp", "gif", "bmp", "mp4", "webm"]
ALLOWED: Final = "JPEG, PNG, WebP, GIF or BMP pictures; MP4, MOV or WebM videos (HEIC and AVIF: save as JPEG)"
VIDEOS: Final = ("mp4", "webm")
_STILLS: Final = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"}


def sniff(data: bytes) -> Form | None:
    """The form of a file; None if it is none of those that are taken."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:2] == b"BM" and len(data) > 26:
        return "bmp"
    if data[4:8] == b"ftyp" and data[8:12] not in _STILLS:
        return "mp4"
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return "webm"
    return None
