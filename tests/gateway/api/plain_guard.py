"""A guard that only opens pictures and masks eleven digits: these tests are about HTTP."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from gateway.errors import InvalidInput, TooLarge
from gateway.records import Media, Received


@dataclass(frozen=True)
class Masked:
    text: str
    spans: int


class PlainGuard:
    def __init__(self) -> None:
        self.looked = 0

    async def media(self, received: Received, field: str) -> Media:
        self.looked += 1
        if len(received.data) > 2_000_000:
            raise TooLarge(field, f"{len(received.data)} bytes", "2000000")
        try:
            image = Image.open(io.BytesIO(received.data))
        except UnidentifiedImageError:
            raise InvalidInput(field, "bytes of no known form", "PNG, JPEG, WebP, MP4") from None
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        return Media("image", received.data, f"image/{str(image.format).lower()}", digest, *image.size)

    def text(self, text: str) -> Masked:
        return Masked(*re.subn(r"(?<!\d)1\d{10}(?!\d)", "[电话]", text))
