"""`python -m loadtests.bench masking`: are the digits of photographed cards hidden, can an OCR still read them, and the price.

It knows cards and the guard. The OCR runs in this process, as the Triton model `ocr` runs it, so that its time can be told.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from statistics import median
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ensemble.ocr.reader import Reader
from gateway.guard import Guard, places
from gateway.guard.kind import sniff
from gateway.guard.ocr import Line
from gateway.guard.picture import open_picture
from gateway.records import Received
from gateway.settings import Media
from loadtests.benchmarks import results
from loadtests.benchmarks.cards import Card, card

DEFINITIONS: Final = {
    "digits_masked": "digits of the private numbers that are gone / all: of the contrast inside a digit's box, a fifth or less "
    "still follows its strokes (covariance of the box before and after, over the variance before, both slightly smoothed)",
    "numbers_read": "masked pictures in which the OCR, looking once more, finds anything that the guard would hide, or any six "
    "neighbouring digits of the true number",
    "cpu_ms": "processor time of this process for one picture: decoding, all looks of the OCR, hiding, encoding; one thread",
    "missed": "seeds of cards with a digit that was not masked",
}
_COVERED: Final = 0.8
_NEIGHBOURS: Final = 6


class Local:
    """The OCR in this process, in place of a connection to Triton."""

    def __init__(self) -> None:
        self._reader = Reader(threads=1)

    async def read(self, image: npt.NDArray[np.uint8]) -> list[Line]:
        """The lines of a picture, as the model `ocr` gives them."""
        found = self._reader.read(image)
        return [
            Line(box, text, float(score))
            for box, text, score in zip(found.boxes, found.texts, found.scores, strict=True)
        ]


def main(arguments: list[str]) -> int:
    """See the module; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench masking", description=__doc__)
    parser.add_argument("--cards", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write loadtests/results/masking.json")
    given = parser.parse_args(arguments)
    figures = asyncio.run(measure(given.seed, given.cards))
    print(
        f"{given.cards} cards: {figures['digits_masked']:.2%} of {figures['digits']} digits masked, {figures['numbers_read']} "
        f"numbers read afterwards; {figures['cpu_ms']['median']:.0f} ms of processor time a picture"
    )
    command = f"python -m loadtests.bench masking {' '.join(arguments)}".strip()
    results.publish(results.Result("masking", command, given.seed, DEFINITIONS, figures), given.save)
    return 0


async def measure(seed: int, count: int) -> dict[str, Any]:
    """The figures of DEFINITIONS for so many cards."""
    ocr: Any = Local()
    guard = Guard(Media(enhance=False), ocr)
    masked = total = read = 0
    missed: list[int] = []
    cpu: list[float] = []
    by_fault: dict[str, list[int]] = {}
    for number in tqdm(range(count), desc="cards", disable=None):
        drawn = card(seed * 10_000 + number)
        start = time.process_time()
        media = await guard.media(Received(drawn.file), "card")
        cpu.append((time.process_time() - start) * 1e3)
        form = sniff(media.data)
        assert form is not None
        after = open_picture(media.data, form, "card", 1 << 30).pixels
        hidden = _hidden(drawn, after)
        masked, total = masked + int(hidden.sum()), total + len(hidden)
        if not hidden.all():
            missed.append(seed * 10_000 + number)
        for fault in drawn.faults or ("none",):
            by_fault.setdefault(fault, []).append(int(hidden.all()))
        read += _readable(drawn, await ocr.read(after))
    ordered = sorted(cpu)
    return {
        "cards": count,
        "digits": total,
        "digits_masked": masked / total,
        "cards_masked_whole": {fault: sum(all_) / len(all_) for fault, all_ in sorted(by_fault.items())},
        "numbers_read": read,
        "missed": missed,
        "cpu_ms": {"median": median(cpu), "p95": ordered[int(0.95 * (len(ordered) - 1))], "max": ordered[-1]},
    }


def _hidden(drawn: Card, after: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """For each digit, whether nothing of its strokes is left: its place has become smooth."""
    before = open_picture(drawn.file, "jpeg", "card", 1 << 30).pixels
    found = []
    for corners in drawn.digits:
        left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
        right, bottom = np.ceil(corners.max(axis=0)).astype(int)
        old, new = (_grey(pixels[top:bottom, left:right]) for pixels in (before, after))
        # The strokes are gone when little of the contrast within the digit's box is left, and what is left does not follow them.
        kept = float(((old - old.mean()) * (new - new.mean())).mean() / max(float(old.var()), 1e-6))
        found.append(kept <= 1 - _COVERED)
    return np.array(found)


def _grey(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    grey: npt.NDArray[np.float64] = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.float64)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), 1.5), np.float64)


def _readable(drawn: Card, lines: list[Line]) -> bool:
    texts = "".join(
        "".join(c for c in line.text.upper() if c.isdecimal() or c == "X") + " " for line in lines
    )
    parts = {drawn.number[i : i + _NEIGHBOURS] for i in range(len(drawn.number) - _NEIGHBOURS + 1)}
    return bool(places.find(lines)) or any(part in texts for part in parts)
