"""Line plots as SVG text that stands inside an HTML page. Knows coordinates and ink, not what is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 34, 44
COLOURS: Final = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#4b5563", "#be185d")


@dataclass(frozen=True)
class Line:
    """Points of a series; a point without a y is left out."""

    name: str
    points: Sequence[tuple[float, float | None]]


def draw(
    title: str,
    x_name: str,
    y_name: str,
    lines: Sequence[Line],
    mark: tuple[float, str] | None = None,
    limits: Sequence[tuple[float, str]] = (),
    log_x: bool = False,
) -> str:
    """An SVG element. `mark` is a vertical line with its name; `limits` are dashed horizontal ones."""
    xs = [x for line in lines for x, y in line.points if y is not None] + ([mark[0]] if mark else [])
    ys = [y for line in lines for _, y in line.points if y is not None]
    if not ys:
        return f"<p>{escape(title)}: nothing to draw.</p>"
    log_x = log_x and min(xs) > 0 and max(xs) > min(xs)
    top = _ceiling(max(ys) * 1.05)
    # A limit far above everything would flatten the curves; it is named in the legend instead.
    drawn = [(value, name) for value, name in limits if value <= 1.5 * top]
    top = _ceiling(max([top, *(value for value, _ in drawn)]))
    low, high = min(xs), max(xs)

    def place_x(x: float) -> float:
        if high == low:
            return (_LEFT + _WIDTH - _RIGHT) / 2
        share = (math.log(x / low) / math.log(high / low)) if log_x else (x - low) / (high - low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def place_y(y: float) -> float:
        return _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">',
        f'<text x="{_LEFT}" y="16" class="title">{escape(title)}</text>',
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" class="middle">{escape(x_name)}</text>',
        f'<text x="12" y="{(_TOP + _HEIGHT - _BOTTOM) / 2}" class="middle" '
        f'transform="rotate(-90 12 {(_TOP + _HEIGHT - _BOTTOM) / 2})">{escape(y_name)}</text>',
    ]
    for number in range(5):
        value = top * number / 4
        y = place_y(value)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="end">{value:.3g}</text>')
    for x in _ticks(sorted(set(xs)), log_x):
        parts.append(f'<text x="{place_x(x):.1f}" y="{_HEIGHT - _BOTTOM + 16}" class="middle">{x:.4g}</text>')
    for value, name in drawn:
        y = place_y(value)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="limit"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{y - 4:.1f}" class="end limit">{escape(name)}</text>')
    if mark:
        x = place_x(mark[0])
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" class="mark"/>')
        anchor = "end" if x > _WIDTH / 2 else "start"
        shift = -5 if anchor == "end" else 5
        parts.append(f'<text x="{x + shift:.1f}" y="{_TOP + 10}" class="{anchor}">{escape(mark[1])}</text>')
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        points = [(place_x(x), place_y(y)) for x, y in line.points if y is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" stroke="{colour}" class="line"/>')
        if len(points) <= 30:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    parts.append("</svg>")
    legend = "".join(
        f'<span><i style="background:{COLOURS[number % len(COLOURS)]}"></i>{escape(line.name)}</span>'
        for number, line in enumerate(lines)
    )
    return f"<figure>{''.join(parts)}<figcaption>{legend}</figcaption></figure>"


def _ceiling(value: float) -> float:
    """The next round number."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * unit >= value * 0.999999)


def _ticks(xs: Sequence[float], log_x: bool) -> list[float]:
    """The values themselves while they are few, else five even ones."""
    if len(xs) <= 10:
        return list(xs)
    low, high = xs[0], xs[-1]
    if log_x:
        return [low * (high / low) ** (number / 4) for number in range(5)]
    return [low + (high - low) * number / 4 for number in range(5)]
