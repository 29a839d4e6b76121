"""Drawn identity and bank cards, photographed badly: turned, in perspective, dark, blurred, noisy. The same for the same seed.

It knows drawing and geometry, and where each digit of a private number ended up. The numbers are random with right check digits.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

import build_engine.demo
from gateway.guard.private import is_card, is_id

_FONTS: Final = Path(build_engine.demo.__file__).parent / "fonts"
_SIZE: Final = (860, 540)
_MARGIN: Final = 120


@dataclass(frozen=True, eq=False)
class Card:
    """A photographed card.

    Attributes:
        kind: what was drawn.
        number: digits (and X) of the private number, without gaps.
        file: the photo, JPEG.
        digits: corners of each of them in the photo, float32 [n,4,2].
        faults: what was done to the photo, for the report.
    """

    kind: Literal["id", "bank"]
    number: str
    file: bytes
    digits: npt.NDArray[np.float32]
    faults: tuple[str, ...]


def card(seed: int) -> Card:
    """One card, all of it drawn from the seed."""
    random = Random(seed)
    kind: Literal["id", "bank"] = random.choice(("id", "bank"))
    number = _id_number(random) if kind == "id" else _card_number(random)
    image, digits = _drawn(random, kind, number)
    pixels, digits, faults = _photographed(random, np.asarray(image), digits)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=random.randint(70, 92))
    return Card(kind, number, file.getvalue(), digits, faults)


def _id_number(random: Random) -> str:
    body = f"{random.randint(11, 65)}{random.randint(100, 9999):04d}{random.randint(1950, 2010)}"
    body += f"{random.randint(1, 12):02d}{random.randint(1, 28):02d}{random.randint(0, 999):03d}"
    return next(body + last for last in "0123456789X" if is_id(body + last))


def _card_number(random: Random) -> str:
    body = random.choice(("6222", "6217", "4392", "5187")) + "".join(
        random.choice("0123456789") for _ in range(random.choice((11, 14)))
    )
    return next(body + last for last in "0123456789" if is_card(body + last))


def _drawn(random: Random, kind: str, number: str) -> tuple[Image.Image, npt.NDArray[np.float32]]:
    light = kind == "id" or random.random() < 0.4
    ground = tuple(random.randint(190, 245) if light else random.randint(10, 90) for _ in range(3))
    ink = tuple(random.randint(0, 60) if light else random.randint(200, 255) for _ in range(3))
    image = Image.new("RGB", _SIZE, ground)
    draw = ImageDraw.Draw(image)
    for _ in range(12):  # a pattern behind the text
        at = random.randint(0, _SIZE[0]), random.randint(0, _SIZE[1])
        shade = tuple(max(0, min(255, value + random.randint(-14, 14))) for value in ground)
        radius = random.randint(30, 160)
        draw.ellipse((at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), fill=shade)
    bold = random.random() < 0.5
    font = ImageFont.truetype(
        str(_FONTS / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), random.randint(30, 44)
    )
    small = ImageFont.truetype(str(_FONTS / "DejaVuSans.ttf"), 26)
    draw.text((50, 40), "IDENTITY CARD" if kind == "id" else "BANK OF THE NORTH", font=small, fill=ink)
    draw.text((50, 110), f"NAME  {random.choice(('LI MING', 'ZHANG WEI', 'A. SMITH'))}", font=small, fill=ink)
    draw.text((50, 470), f"VALID {random.randint(1, 12):02d}/{random.randint(26, 34)}", font=small, fill=ink)
    group = 4 if kind == "bank" and random.random() < 0.8 else len(number)
    x, y, corners = 60.0, random.randint(220, 360), []
    spacing = random.uniform(1.0, 1.12)
    for place, character in enumerate(number):
        if place and place % group == 0:
            x += draw.textlength("0", font=font) * 0.8
        left, top, right, bottom = draw.textbbox((x, y), character, font=font)
        draw.text((x, y), character, font=font, fill=ink)
        corners.append([(left, top), (right, top), (right, bottom), (left, bottom)])
        x += draw.textlength(character, font=font) * spacing
    return image, np.array(corners, np.float32)


def _photographed(
    random: Random, pixels: npt.NDArray[np.uint8], digits: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], tuple[str, ...]]:
    width, height = _SIZE[0] + 2 * _MARGIN, _SIZE[1] + 2 * _MARGIN
    faults = []
    corners = np.array([(0, 0), (_SIZE[0], 0), _SIZE, (0, _SIZE[1])], np.float32)
    target = corners + _MARGIN
    if random.random() < 0.8:
        angle = np.deg2rad(random.uniform(-10, 10))
        middle = target.mean(axis=0)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        target = ((target - middle) @ turn.T + middle).astype(np.float32)
        faults.append("turned")
    if random.random() < 0.5:
        shift = [(random.uniform(-45, 45), random.uniform(-45, 45)) for _ in range(4)]
        target = (target + np.array(shift, np.float32)).astype(np.float32)
        faults.append("angled")
    matrix = cv2.getPerspectiveTransform(corners, target)
    table = tuple(random.randint(60, 200) for _ in range(3))
    made: npt.NDArray[Any] = cv2.warpPerspective(pixels, matrix, (width, height), borderValue=table)
    moved = cv2.perspectiveTransform(digits.reshape(-1, 1, 2), matrix).reshape(-1, 4, 2)
    if random.random() < 0.4:
        made = cv2.GaussianBlur(made, (0, 0), random.uniform(0.6, 1.8))
        faults.append("blurred")
    if random.random() < 0.4:
        made = made * random.uniform(0.3, 0.6)
        faults.append("dark")
    noise = np.random.default_rng(random.getrandbits(32)).normal(0, random.uniform(1, 7), made.shape)
    return np.clip(made + noise, 0, 255).astype(np.uint8), moved.astype(np.float32), tuple(faults)
