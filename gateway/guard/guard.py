"""What a customer sends becomes what may be kept: the order of the checks is here, and nothing else.

It never gives out a picture that was not looked at: without the OCR model, masking on, it is Unavailable.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gateway import settings
from gateway.errors import InvalidInput, TooLarge
from gateway.guard import places, private, quality, video
from gateway.guard.hiding import hidden
from gateway.guard.kind import ALLOWED, VIDEOS, Form, sniff
from gateway.guard.letterbox import Letterbox
from gateway.guard.ocr import Line, Ocr
from gateway.guard.picture import Picture, Pixels, open_picture
from gateway.guard.places import Polygon
from gateway.guard.tiles import tiles
from gateway.records import Media, Received

_LOOKS = 3
"""How often a picture is looked at: what was hidden may have kept the OCR from seeing its neighbour."""


class Guard:
    """Checks, cleans and masks. `ocr` None, or `limits.mask` false: pictures are not searched for private data."""

    def __init__(self, limits: settings.Media, ocr: Ocr | None) -> None:
        self._limits = limits
        self._ocr = ocr if limits.mask else None

    def text(self, text: str) -> private.Masked:
        """The text without private data."""
        return private.mask(text)

    async def media(self, received: Received, field: str) -> Media:
        """A file that may be kept.

        Raises InvalidInput (no picture or recording, or a broken one), TooLarge, Unavailable (it cannot be searched now).
        """
        form = sniff(received.data)
        if form is None:
            raise InvalidInput(field, f"{len(received.data)} bytes of no known form", ALLOWED)
        limit = self._limits.max_video_bytes if form in VIDEOS else self._limits.max_image_bytes
        if len(received.data) > limit:
            raise TooLarge(field, f"{len(received.data)} bytes", f"at most {limit} bytes")
        if form in VIDEOS:
            return await self._video(received.data, field)
        return await self._image(received.data, form, field)

    async def _image(self, data: bytes, form: Form, field: str) -> Media:
        picture = await asyncio.to_thread(open_picture, data, form, field, self._limits.max_image_pixels)
        found = await self._found(picture.pixels)
        return await asyncio.to_thread(self._finished, picture, found)

    def _finished(self, picture: Picture, found: Sequence[Polygon]) -> Media:
        pixels = picture.pixels
        if found:
            pixels = hidden(pixels, found)
        measured = quality.measure(pixels)
        if self._limits.enhance and measured.needs_help:
            pixels = quality.enhanced(pixels)
        if side := self._limits.letterbox:
            height, width, _ = pixels.shape
            pixels = Letterbox.of(width, height, side).fit(pixels)
        if pixels is not picture.pixels:
            picture = picture.with_pixels(pixels)
        height, width, _ = picture.pixels.shape
        return Media(
            "image", picture.data, picture.mime, picture.digest, width, height, measured.score, len(found)
        )

    async def _video(self, data: bytes, field: str) -> Media:
        limits = self._limits
        recording = await asyncio.to_thread(
            video.inspect, data, field, limits.max_video_s, limits.max_image_pixels
        )
        found: list[tuple[float, list[Polygon]]] = []
        worst = 1.0
        frames = video.samples(recording)
        while (sample := await asyncio.to_thread(next, frames, None)) is not None:
            at_s, pixels = sample
            found.append((at_s, await self._found(pixels)))
            worst = min(worst, (await asyncio.to_thread(quality.measure, pixels)).score)
        masked = sum(len(of) for _, of in found)

        def change(at_s: float, pixels: Pixels) -> Pixels:
            # What the looks before and after this moment saw: a number that scrolls in between is under one of them.
            near = [place for seen_s, of in found if abs(seen_s - at_s) <= video.SAMPLE_S for place in of]
            return hidden(pixels, near)

        clean = await asyncio.to_thread(video.rewritten, recording, change if masked else None)
        digest = hashlib.sha256(clean).hexdigest()
        return Media("video", clean, "video/mp4", digest, recording.width, recording.height, worst, masked)

    async def _found(self, pixels: Pixels) -> list[Polygon]:
        """Private places of a picture: looked for again once they are hidden, and in a clearer copy of a dark one."""
        if self._ocr is None:
            return []
        found = places.find(await _lines(self._ocr, pixels))
        dark = await asyncio.to_thread(quality.measure, pixels)
        if dark.score < 1.0:
            clearer = await asyncio.to_thread(quality.enhanced, pixels)
            found += places.find(await _lines(self._ocr, clearer))
        for _ in range(_LOOKS - 1):
            if not found:
                break
            covered = await asyncio.to_thread(hidden, pixels, found)
            more = places.find(await _lines(self._ocr, covered))
            if not more:
                break
            found += more
        return found


async def _lines(ocr: Ocr, pixels: Pixels) -> list[Line]:
    """All lines of a picture. One that two tiles show counts once: twice in a row it would be a longer number."""
    height, width, _ = pixels.shape
    lines: list[Line] = []
    for tile in tiles(width, height):
        shown = await asyncio.to_thread(tile.cut, pixels)
        for line in await ocr.read(shown):
            placed = replace(line, box=tile.back(line.box))
            if not any(_same(placed, other) for other in lines):
                lines.append(placed)
    return lines


def _same(one: Line, other: Line) -> bool:
    apart = float(np.linalg.norm(one.box.mean(axis=0) - other.box.mean(axis=0)))
    return one.text == other.text and apart < float(np.linalg.norm(one.box[3] - one.box[0])) / 2
