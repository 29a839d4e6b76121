"""Draws the demo's world: photos and screenshots of phones and laptops with one of twelve screens.

Pillow and NumPy only. Sizes inside the drawing code are in *canonical pixels* (a picture of 48 x 1024 of them, the size
that the demo's processor resizes to); the canvas is larger by a random factor, as a camera's picture would be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONTS = Path(__file__).with_name("fonts")
DIGIT_FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSans.ttf")
CJK_FONT = "WenQuanYiMicroHei-subset.ttf"
CANONICAL_AREA = 48 * 32 * 32
Colour = tuple[int, int, int]

CAPTIONS: dict[str, tuple[str, ...]] = {
    "crash": ("Error", "App crashed", "错误代码", "应用崩溃"),
    "battery": ("Low battery", "电量低", "电量不足"),
    "network": ("No network", "无网络"),
    "storage": ("Storage full", "空间已满"),
    "spinner": ("Loading", "加载中"),
    "login": ("Login failed", "登录失败"),
    "heat": ("Too hot", "温度过高"),
    "update": ("Update failed", "更新失败"),
}


@dataclass(frozen=True)
class Mark:
    """One drawn digit: its value, its place in the number (0 = leftmost), its centre as fractions of width, height."""

    digit: int
    place: int
    x: float
    y: float


@dataclass
class Screen:
    """A finished picture and what it shows."""

    kind: str
    image: Image.Image
    code: str | None = None
    percent: int | None = None
    marks: list[Mark] = field(default_factory=list)


@lru_cache(maxsize=512)
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A shipped font at a size in canvas pixels."""
    return ImageFont.truetype(str(FONTS / name), size)


class Canvas:
    """A Pillow drawing whose coordinates are canonical pixels."""

    def __init__(self, width: float, height: float, scale: float, fill: Colour, rng: Random) -> None:
        self.rng, self.scale = rng, scale
        self.width, self.height = width, height
        self.image = Image.new("RGB", (max(32, round(width * scale)), max(32, round(height * scale))), fill)
        self.draw = ImageDraw.Draw(self.image)
        self.digits: list[tuple[int, int, float, float]] = []
        self.left = self.top = self.right = self.bottom = 0.0  # the display inside the device
        self.ink: Colour = (0, 0, 0)
        self.paper: Colour = (255, 255, 255)

    @property
    def middle(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def unit(self) -> float:
        """The display's shorter side."""
        return min(self.right - self.left, self.bottom - self.top)

    def _line(self, width: float) -> int:
        return max(1, round(width * self.scale))

    def _points(self, *coordinates: float) -> list[float]:
        return [value * self.scale for value in coordinates]

    def box(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        fill: Colour | None,
        radius: float = 0,
        outline: Colour | None = None,
        width: float = 1,
    ) -> None:
        """A rectangle, rounded if `radius` > 0; nothing if it would be empty."""
        if x1 - x0 >= 1 and y1 - y0 >= 1:
            self.draw.rounded_rectangle(
                self._points(x0, y0, x1, y1), radius * self.scale, fill, outline, self._line(width)
            )

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        fill: Colour | None,
        outline: Colour | None = None,
        width: float = 1,
    ) -> None:
        self.draw.ellipse(self._points(x - rx, y - ry, x + rx, y + ry), fill, outline, self._line(width))

    def arc(
        self, x: float, y: float, radius: float, start: float, end: float, fill: Colour, width: float
    ) -> None:
        self.draw.arc(
            self._points(x - radius, y - radius, x + radius, y + radius), start, end, fill, self._line(width)
        )

    def line(self, points: list[tuple[float, float]], fill: Colour, width: float) -> None:
        self.draw.line(
            [(x * self.scale, y * self.scale) for x, y in points], fill, self._line(width), "curve"
        )

    def polygon(
        self,
        points: list[tuple[float, float]],
        fill: Colour | None,
        outline: Colour | None = None,
        width: float = 1,
    ) -> None:
        self.draw.polygon(
            [(x * self.scale, y * self.scale) for x, y in points], fill, outline, self._line(width)
        )

    def text(
        self, x: float, y: float, text: str, size: float, fill: Colour, font: str, anchor: str = "mm"
    ) -> None:
        self.draw.text(
            (x * self.scale, y * self.scale),
            text,
            fill,
            load_font(font, max(6, round(size * self.scale))),
            anchor,
        )

    def caption(
        self, kind: str, y: float, fill: Colour | None = None, x: float | None = None, size: float = 0
    ) -> None:
        """A short text in Chinese or English, centred; it helps a person more than the model."""
        text = self.rng.choice(CAPTIONS[kind])
        font = CJK_FONT if ord(text[0]) > 255 else self.rng.choice(DIGIT_FONTS)
        size = size or self.rng.uniform(14, 19)
        y = min(max(y, self.top + size * 0.7), self.bottom - size * 0.7)
        self.text(self.middle[0] if x is None else x, y, text, size, fill or self.ink, font)

    def number(
        self, digits: str, suffix: str, x: float, y: float, fill: Colour, size: float, pitch: float
    ) -> None:
        """Digits around (x, y), `pitch` apart, so wide that no visual token holds the centres of two."""
        font = self.rng.choice(DIGIT_FONTS)
        start = x - pitch * (len(digits) + len(suffix) - 1) / 2
        for place, digit in enumerate(digits):
            self.text(start + place * pitch, y, digit, size, fill, font)
            self.digits.append((int(digit), place, start + place * pitch, y))
        if suffix:
            self.text(start + len(digits) * pitch, y, suffix, size * 0.8, fill, font)


def _colour(rng: Random, low: int, high: int) -> Colour:
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def _red(rng: Random) -> Colour:
    return rng.randint(200, 245), rng.randint(20, 60), rng.randint(20, 60)


def _home(c: Canvas) -> None:
    """A wallpaper gradient with a grid of app icons."""
    rng = c.rng
    top, bottom = np.array(_colour(rng, 60, 200)), np.array(_colour(rng, 60, 200))
    steps = 24
    height = (c.bottom - c.top) / steps
    for i in range(steps):
        shade = (top + (bottom - top) * i / (steps - 1)).astype(int)
        c.draw.rectangle(
            c._points(c.left, c.top + i * height, c.right, c.top + (i + 1) * height),
            tuple(int(v) for v in shade),
        )
    columns = rng.randint(3, 4) if c.width < c.height else rng.randint(5, 6)
    pitch = (c.right - c.left) / columns
    icon = pitch * rng.uniform(0.5, 0.65)
    for row in range(max(2, int((c.bottom - c.top) * rng.uniform(0.55, 0.9) / pitch))):
        for column in range(columns):
            x, y = c.left + column * pitch + (pitch - icon) / 2, c.top + 6 + row * pitch
            if y + icon < c.bottom - 2:
                c.box(x, y, x + icon, y + icon, _colour(rng, 30, 255), icon / 4)


def _normal(c: Canvas) -> None:
    _home(c)


def _crack(c: Canvas) -> None:
    rng = c.rng
    _home(c)
    span = max(c.right - c.left, c.bottom - c.top)
    x0 = rng.uniform(c.left + 0.2 * (c.right - c.left), c.right - 0.2 * (c.right - c.left))
    y0 = rng.uniform(c.top + 0.2 * (c.bottom - c.top), c.bottom - 0.2 * (c.bottom - c.top))
    ink = rng.choice(((245, 245, 245), (12, 12, 12), (225, 230, 240)))
    rays = rng.randint(8, 13)
    for ray in range(rays):
        angle = ray * 2 * math.pi / rays + rng.uniform(-0.3, 0.3)
        x, y, points = x0, y0, [(x0, y0)]
        for _ in range(rng.randint(3, 6)):
            step = rng.uniform(0.08, 0.2) * span
            angle += rng.uniform(-0.4, 0.4)
            x = min(max(x + step * math.cos(angle), c.left), c.right)
            y = min(max(y + step * math.sin(angle), c.top), c.bottom)
            points.append((x, y))
        c.line(points, ink, rng.uniform(1.2, 2.8))
    for radius in (0.08, 0.17):
        ring = [
            (
                x0 + radius * c.unit * math.cos(a) * rng.uniform(0.7, 1.3),
                y0 + radius * c.unit * math.sin(a) * rng.uniform(0.7, 1.3),
            )
            for a in np.linspace(0, 2 * math.pi, 9)[:-1]
        ]
        c.polygon(ring, None, ink, 1.4)


def _black(c: Canvas) -> None:
    rng = c.rng
    if rng.random() < 0.5:  # a faint reflection
        x, shade = rng.uniform(c.left, c.right), rng.randint(14, 34)
        fill = (shade, shade, shade + 4)
        c.polygon(
            [
                (x, c.top),
                (min(x + 30, c.right), c.top),
                (max(x - 40, c.left), c.bottom),
                (max(x - 70, c.left), c.bottom),
            ],
            fill,
        )


def _crash(c: Canvas, code: str) -> None:
    """A dialog with a red cross, a caption and the large code."""
    rng = c.rng
    x, y = c.middle
    available = c.right - c.left - 6
    pitch = min(rng.uniform(40, 46), available / 4)
    size = rng.uniform(37, 44)
    width = min(available, pitch * 4 + rng.uniform(0, 24))
    height = min(c.bottom - c.top - 8, rng.uniform(112, 140))
    x += rng.uniform(-1, 1) * max(0.0, (available - width) / 2)
    y += rng.uniform(-1, 1) * max(0.0, (c.bottom - c.top - 8 - height) / 2)
    left, top, bottom = x - width / 2, y - height / 2, y + height / 2
    light = rng.random() < 0.7
    paper, ink = (
        (_colour(rng, 225, 255), _colour(rng, 0, 50))
        if light
        else (_colour(rng, 25, 65), _colour(rng, 215, 255))
    )
    c.box(left, top, left + width, bottom, paper, 8, _colour(rng, 90, 160), 1.5)
    radius = rng.uniform(11, 15)
    cx, cy = left + radius + rng.uniform(5, 12), top + radius + 6
    c.ellipse(cx, cy, radius, radius, _red(rng))
    arm = radius * 0.45
    c.line([(cx - arm, cy - arm), (cx + arm, cy + arm)], (255, 255, 255), 3)
    c.line([(cx - arm, cy + arm), (cx + arm, cy - arm)], (255, 255, 255), 3)
    c.caption("crash", cy, ink, (cx + radius + left + width) / 2, rng.uniform(14, 18))
    number_y = cy + radius + 6 + size * 0.5 + rng.uniform(0, 6)
    slack = max(0.0, (width - pitch * 4) / 2)
    c.number(
        code,
        "",
        x + rng.uniform(-slack, slack),
        number_y,
        ink if light or rng.random() < 0.7 else (255, 235, 120),
        size,
        pitch,
    )
    button = number_y + size * 0.55 + 3
    c.box(x - width * 0.18, button, x + width * 0.18, bottom - 5, _colour(rng, 60, 190), 5)


def _battery(c: Canvas, percent: int) -> None:
    """An almost empty battery outline above (or below) the large percentage."""
    rng = c.rng
    x, y = c.middle
    width, height = c.unit * rng.uniform(0.5, 0.68), c.unit * rng.uniform(0.24, 0.32)
    size, pitch = rng.uniform(38, 46), rng.uniform(40, 46)
    below = rng.random() < 0.8
    icon_y = y + (-1 if below else 1) * (size * 0.55 + 3)
    number_y = y + (1 if below else -1) * (height * 0.5 + 5)
    left, top, bottom = x - width / 2, icon_y - height / 2, icon_y + height / 2
    c.box(left, top, left + width, bottom, None, 6, c.ink, rng.uniform(3, 5))
    c.box(left + width, icon_y - height / 6, left + width + 7, icon_y + height / 6, c.ink)
    red = _red(rng)
    c.box(left + 6, top + 6, left + 9 + width * percent / 100, bottom - 6, red)
    number_x = x + rng.uniform(-14, 14)
    c.number(str(percent), "%", number_x, number_y, c.ink if rng.random() < 0.75 else red, size, pitch)
    if rng.random() < 0.5:
        c.caption("battery", max(bottom, number_y + size * 0.5) + 14)


def _network(c: Canvas) -> None:
    rng = c.rng
    x, y = c.middle
    size = c.unit * rng.uniform(0.24, 0.34)
    width = max(4.0, size / 6)
    for part in (1, 0.66, 0.33):
        c.arc(x, y, size * part, 220, 320, c.ink, width)
    c.ellipse(x, y, width, width, c.ink)
    c.line([(x - size * 0.8, y - size), (x + size * 0.8, y + size * 0.3)], _red(rng), width)
    c.caption("network", y + size * 0.55)


def _storage(c: Canvas) -> None:
    rng = c.rng
    x, y = c.middle
    size = c.unit * rng.uniform(0.22, 0.3)
    disk = _colour(rng, 90, 170)
    for layer in range(3):
        c.ellipse(x, y - layer * size * 0.42, size, size * 0.32, disk, c.ink, 2)
    c.box(x - size * 1.2, y + size * 0.5, x + size * 1.2, y + size * 0.5 + 13, _red(rng), 0, c.ink, 2)
    c.caption("storage", y + size * 0.5 + 28)


def _spinner(c: Canvas) -> None:
    rng = c.rng
    x, y = c.middle
    size, dots, turn = c.unit * rng.uniform(0.18, 0.28), 10, rng.randint(0, 9)
    for dot in range(dots):
        weight = ((dot + turn) % dots + 1) / dots
        angle = dot * 2 * math.pi / dots
        shade = tuple(int(p + (i - p) * weight) for p, i in zip(c.paper, c.ink, strict=True))
        c.ellipse(
            x + size * math.cos(angle),
            y + size * math.sin(angle),
            size * 0.18,
            size * 0.18,
            (shade[0], shade[1], shade[2]),
        )
    if rng.random() < 0.5:
        c.caption("spinner", y + size * 1.5)


def _login(c: Canvas) -> None:
    """A head, two red-framed fields with dots, a message."""
    rng = c.rng
    x, y = c.middle
    head, body = c.unit * 0.1, _colour(rng, 80, 180)
    top = y - c.unit * 0.28
    c.ellipse(x, top, head, head, body)
    c.draw.pieslice(
        c._points(x - head * 1.7, top + head * 0.9, x + head * 1.7, top + head * 3.6), 180, 360, body
    )
    half, red = (c.right - c.left) * 0.36, _red(rng)
    for row in range(2):
        y0 = top + head * 2.6 + row * 28
        c.box(x - half, y0, x + half, y0 + 22, (250, 250, 250), 2, red, 2.5)
        for dot in range(rng.randint(5, 7)):
            c.ellipse(x - half + 11 + dot * 11, y0 + 11, 3, 3, (60, 60, 60))
    c.caption("login", top + head * 2.6 + 66, red)


def _bluescreen(c: Canvas) -> None:
    rng = c.rng
    size = c.unit * rng.uniform(0.26, 0.34)
    x = c.left + (c.right - c.left) * 0.08
    c.text(x, c.top + c.unit * 0.05, ":(", size, (255, 255, 255), DIGIT_FONTS[1], "la")
    y = c.top + c.unit * 0.08 + size * 1.25
    for _ in range(rng.randint(3, 6)):
        if y + 7 < c.bottom - 4:
            c.box(x, y, x + (c.right - c.left) * rng.uniform(0.35, 0.8), y + 5, (235, 235, 235))
        y += 12


def _heat(c: Canvas) -> None:
    """A yellow triangle with a thermometer."""
    rng = c.rng
    x, y = c.middle
    size = c.unit * rng.uniform(0.25, 0.32)
    top = y - size
    c.polygon(
        [(x, top), (x - size, top + size * 1.6), (x + size, top + size * 1.6)],
        (250, rng.randint(140, 195), rng.randint(0, 40)),
    )
    c.box(x - 4, top + size * 0.5, x + 4, top + size * 1.2, (200, 20, 20), 3)
    c.ellipse(x, top + size * 1.28, 8, 8, (200, 20, 20))
    c.caption("heat", top + size * 1.6 + 14)


def _update(c: Canvas) -> None:
    """A round arrow above a progress bar that stopped, crossed out."""
    rng = c.rng
    x, y = c.middle
    size, green = (
        c.unit * rng.uniform(0.17, 0.23),
        (rng.randint(30, 80), rng.randint(120, 170), rng.randint(40, 120)),
    )
    top = y - size * 0.7
    c.arc(x, top, size, 30, 320, green, max(5.0, size / 4))
    c.polygon(
        [(x + size * 0.5, top - size * 0.7), (x + size * 1.4, top - size * 0.7), (x + size, top)], green
    )
    half, bar = (c.right - c.left) * 0.34, top + size * 1.4
    c.box(x - half, bar, x + half, bar + 12, None, 2, c.ink, 2)
    c.box(x - half, bar, x + half * rng.uniform(-0.4, 0.4), bar + 12, green, 2)
    red = _red(rng)
    c.line([(x + half - 14, bar - 4), (x + half, bar + 16)], red, 4)
    c.line([(x + half, bar - 4), (x + half - 14, bar + 16)], red, 4)
    c.caption("update", bar + 30)


_PLAIN: dict[str, Callable[[Canvas], None]] = {
    "normal": _normal,
    "crack": _crack,
    "black": _black,
    "network": _network,
    "storage": _storage,
    "spinner": _spinner,
    "login": _login,
    "bluescreen": _bluescreen,
    "heat": _heat,
    "update": _update,
}


def _device(kind: str, rng: Random, scale: float) -> Canvas:
    """A phone or a laptop on a plain or two-tone table, its display cleared for `kind`."""
    phone = rng.random() < 0.55
    aspect = rng.uniform(0.74, 0.9) if phone else rng.uniform(1.2, 1.5)
    width, height = math.sqrt(CANONICAL_AREA * aspect), math.sqrt(CANONICAL_AREA / aspect)
    c = Canvas(width, height, scale, _colour(rng, 60, 235), rng)
    if rng.random() < 0.4:
        edge = rng.uniform(0.3, 0.9) * height
        c.box(0, edge, width, height, _colour(rng, 60, 235))
    margin = rng.uniform(3, 9)
    case = _colour(rng, 10, 60) if rng.random() < 0.8 else _colour(rng, 170, 215)
    x0, y0, x1 = margin, margin + rng.uniform(0, 6), width - margin
    y1 = height - margin - (rng.uniform(8, 20) if not phone else rng.uniform(0, 6))
    c.box(x0, y0, x1, y1, case, rng.uniform(6, 16) if phone else 5)
    if not phone:
        base = (min(255, case[0] + 60), min(255, case[1] + 60), min(255, case[2] + 60))
        c.polygon(
            [(x0 - 2, y1), (x1 + 2, y1), (min(width, x1 + 6), height - 2), (max(0.0, x0 - 6), height - 2)],
            base,
        )
    border = rng.uniform(3, 7)
    c.left, c.top, c.right, c.bottom = x0 + border, y0 + border, x1 - border, y1 - border
    light = rng.random() < 0.5
    c.paper = _colour(rng, 195, 250) if light else _colour(rng, 25, 90)
    c.ink = _colour(rng, 0, 60) if light else _colour(rng, 200, 255)
    if kind == "black":
        c.paper = _colour(rng, 0, 12)
    elif kind == "bluescreen":
        c.paper = (rng.randint(0, 25), rng.randint(70, 125), rng.randint(180, 235))
    c.box(c.left, c.top, c.right, c.bottom, c.paper)
    return c


def _photograph(c: Canvas, rng: Random) -> tuple[Image.Image, list[Mark]]:
    """Camera effects: a small rotation, softness, light and noise; the marks follow the rotation."""
    image, angle = c.image, 0.0
    if rng.random() < 0.6:
        angle = rng.uniform(-2.5, 2.5)
        image = image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=image.getpixel((0, 0)))
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8) * c.scale))
    pixels = np.asarray(image, np.float32)
    pixels = (pixels - 128) * rng.uniform(0.82, 1.15) + 128 + rng.uniform(-20, 18)
    if rng.random() < 0.7:
        noise = np.random.default_rng(rng.getrandbits(32))
        pixels += noise.standard_normal(pixels.shape, np.float32) * rng.uniform(1, 8)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    marks = []
    for digit, place, x, y in c.digits:
        dx, dy = x - c.width / 2, y - c.height / 2
        marks.append(
            Mark(digit, place, 0.5 + (dx * cos + dy * sin) / c.width, 0.5 + (dy * cos - dx * sin) / c.height)
        )
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), marks


def draw_screen(kind: str, rng: Random, scale: float | None = None, photograph: bool = True) -> Screen:
    """A picture of `kind`. `scale` is canvas pixels per canonical pixel, random in 1.2..2.6 if None."""
    c = _device(kind, rng, scale or rng.uniform(1.2, 2.6))
    code = percent = None
    if kind == "crash":
        code = str(rng.randint(1000, 9999))
        _crash(c, code)
    elif kind == "battery":
        percent = rng.randint(1, 19)
        _battery(c, percent)
    else:
        _PLAIN[kind](c)
    image, marks = (
        _photograph(c, rng)
        if photograph
        else (c.image, [Mark(digit, place, x / c.width, y / c.height) for digit, place, x, y in c.digits])
    )
    return Screen(kind, image, code, percent, marks)
