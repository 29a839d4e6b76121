"""The guard against the model `ocr` on a real Triton: found, nothing found, a bad request, and the server gone."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gateway.errors import Unavailable
from gateway.guard import Guard
from gateway.guard.ocr import Line, Ocr
from gateway.records import Media, Received
from gateway.settings import Media as Limits
from loadtests.benchmarks.cards import card
from tests.server.triton import serving

pytestmark = pytest.mark.server
PICTURES = Path(__file__).parents[3] / "build_engine" / "demo" / "pictures"


def asked(url: str, ask: Any) -> Any:
    async def run() -> Any:
        ocr = Ocr(url, "ocr", 60)
        try:
            return await ask(ocr)
        finally:
            await ocr.close()

    return asyncio.run(run())


def guarded(url: str, *files: bytes) -> list[Media]:
    async def ask(ocr: Ocr) -> list[Media]:
        guard = Guard(Limits(), ocr)
        return list(await asyncio.gather(*(guard.media(Received(file), "image") for file in files)))

    found: list[Media] = asked(url, ask)
    return found


def read(url: str, image: Any) -> list[Line]:
    def ask(ocr: Ocr) -> Coroutine[Any, Any, list[Line]]:
        return ocr.read(image)

    found: list[Line] = asked(url, ask)
    return found


def test_the_guard_and_its_model(demo_engines: Path) -> None:
    plain = (PICTURES / "crack.jpg").read_bytes()
    with serving(demo_engines, arguments=("--set", "ocr_instances=1")) as server:
        url = server.grpc_url
        # Several at once, and each gets its own.
        masked, untouched, again = guarded(url, card(3).file, plain, card(3).file)
        assert masked.masked > 0
        assert (masked.digest, masked.data) == (again.digest, again.data)
        digits = card(3).number
        pixels = np.asarray(Image.open(io.BytesIO(masked.data)).convert("RGB"))
        seen = "".join(c for line in read(url, pixels) for c in line.text if c.isdecimal())
        assert not any(digits[at : at + 6] in seen for at in range(len(digits) - 5))
        assert (untouched.data, untouched.masked) == (plain, 0)
        # Nothing to read is an answer; a picture that cannot be read is that request's fault alone.
        assert read(url, np.full((64, 64, 3), 200, np.uint8)) == []
        with pytest.raises(Unavailable):
            read(url, np.zeros((900, 10, 3), np.uint8))
        assert len(guarded(url, plain)) == 1
    with pytest.raises(Unavailable, match="private data"):
        guarded(url, plain)
